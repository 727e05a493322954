"""JSON configurations are read strictly and written back the same."""

import json
from dataclasses import dataclass, field
from typing import Literal

import pytest

from speechgpt_gen.models.config import from_json, to_json
from speechgpt_gen.models.errors import ConfigError


@dataclass(frozen=True)
class Inner:
    size: int = 3
    name: Literal["elu", "snake"] = "elu"


@dataclass(frozen=True)
class Outer:
    width: int
    rate: float = 0.5
    strides: tuple[int, ...] = (8, 5)
    inner: Inner = field(default_factory=Inner)
    limit: int | None = None
    causal: bool = True

    def __post_init__(self) -> None:
        if self.width < 0:
            raise ValueError("width must not be negative")


def test_what_is_written_is_read_back() -> None:
    outer = Outer(4, 1.0, (2, 3, 4), Inner(5, "snake"), 7, False)
    assert from_json(Outer, json.loads(json.dumps(to_json(outer))), "config") == outer
    assert from_json(Outer, {"width": 4, "rate": 2}, "config") == Outer(4, 2.0)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], r"config is \[\]"),
        ({}, "lacks the key 'width'"),
        ({"width": 4, "widht": 5}, "unknown key 'widht'"),
        ({"width": "4"}, "config.width is '4': give int"),
        ({"width": True}, "config.width is True: give int"),
        ({"width": 4, "causal": 1}, "config.causal is 1: give bool"),
        ({"width": 4, "strides": [8, "5"]}, "config.strides is '5': give int"),
        ({"width": 4, "inner": {"size": None}}, "config.inner.size is None: give int"),
        ({"width": 4, "inner": {"name": "relu"}}, "config.inner.name is 'relu': give 'elu' or 'snake'"),
        ({"width": -1}, "config: width must not be negative"),
    ],
)
def test_what_does_not_fit_is_named(data: object, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        from_json(Outer, data, "config")
    assert "\n" not in str(caught.value)
