"""Key lists of the published checkpoints, for the tests of the models that load them."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Shapes = dict[str, tuple[int, ...]]


@pytest.fixture(scope="session")
def published_keys() -> Callable[[str], Shapes]:
    """Reader of `published_keys/<name>.txt`: every key of a published checkpoint with its shape."""

    def read(name: str) -> Shapes:
        lines = (Path(__file__).parent / "published_keys" / f"{name}.txt").read_text().splitlines()
        pairs = (line.split(" ", 1) for line in lines if not line.startswith("#"))
        return {
            key: tuple(int(size) for size in re.findall(r"\d+", shape))
            for pattern, shape in pairs
            for key in _expanded(pattern)
        }

    return read


def _expanded(pattern: str) -> Iterator[str]:
    """`{a|b}.[0-1]` -> a.0, a.1, b.0, b.1"""
    found = re.search(r"\{([^{}]*)\}", pattern) or re.search(r"\[(\d+)-(\d+)\]", pattern)
    if found is None:
        yield pattern
        return
    one_of = found[1].split("|") if found[0][0] == "{" else map(str, range(int(found[1]), int(found[2]) + 1))
    for choice in one_of:
        yield from _expanded(pattern[: found.start()] + choice + pattern[found.end() :])
