"""Configurations as JSON: every key is known and of the right kind, or the reader is told which is not."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from .errors import ConfigError

T = TypeVar("T")


def from_json(cls: type[T], data: object, where: str) -> T:
    """Build dataclass `cls` from a JSON object; nested dataclasses, tuples, optionals and literals are understood.

    where: what the message calls the object, such as "config.json: tokenizer". Raises ConfigError, in one line, for
    an unknown or missing key and for a value of the wrong kind.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{where} is {_show(data)}: give an object")
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}  # type: ignore[arg-type]
    if unknown := sorted(set(data) - set(fields)):
        raise ConfigError(f"{where} has the unknown key {', '.join(map(repr, unknown))}: known are {', '.join(fields)}")
    if missing := [name for name, field in fields.items() if name not in data and _required(field)]:
        raise ConfigError(f"{where} lacks the key {', '.join(map(repr, missing))}")
    hints = get_type_hints(cls)
    values = {name: _value(hints[name], value, f"{where}.{name}") for name, value in data.items()}
    try:
        return cls(**values)
    except (ValueError, TypeError, ConfigError) as error:
        raise ConfigError(f"{where}: {error}") from None


def positive(config: object, *names: str) -> None:
    """Raise ConfigError unless these fields of a dataclass are above zero."""
    for name in names:
        if not getattr(config, name) > 0:
            raise ConfigError(f"{name} is {getattr(config, name)}: give more than 0")


def check_heads(name: str, dim: int, heads: int, *, rotary: bool = True) -> None:
    """Raise ConfigError unless `dim` splits into so many heads, of even size where positions are rotary."""
    if heads < 1 or dim < 1 or dim % (2 * heads if rotary else heads):
        raise ConfigError(f"{name} {dim} does not split into {heads} heads{' of even size' if rotary else ''}")


def not_negative(config: Any, where: str) -> None:
    """Raise ConfigError for a number below zero in a dataclass or in those within it, by where it stands."""
    for field in dataclasses.fields(config):
        value, place = getattr(config, field.name), f"{where}.{field.name}"
        if dataclasses.is_dataclass(value):
            not_negative(value, place)
        elif isinstance(value, int | float) and not value >= 0:
            raise ConfigError(f"{place} is {value}: give 0 or more")


def to_json(config: Any) -> dict[str, Any]:
    """The JSON object of a dataclass: what `from_json` reads back."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config) if field.init}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return to_json(value)
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _value(kind: Any, value: object, where: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return from_json(kind, value, where)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (only,) = (argument for argument in arguments if argument is not type(None))
        return _value(only, value, where)
    if origin is Literal and value in arguments:
        return value
    if origin in (tuple, list) and isinstance(value, list | tuple):
        items = arguments[:1] * len(value) if origin is list or arguments[-1:] == (...,) else arguments
        if len(items) == len(value):
            return origin(_value(item, each, where) for item, each in zip(items, value, strict=True))
    if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(kind, type) and isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
        return value
    wanted = " or ".join(map(repr, arguments)) if origin is Literal else getattr(kind, "__name__", str(kind))
    raise ConfigError(f"{where} is {_show(value)}: give {wanted}")


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "..."
