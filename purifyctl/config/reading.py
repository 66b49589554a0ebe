"""Reads TOML and plain data into dataclasses. An unknown key is an error."""

import dataclasses
import math
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

from purifyctl.config.values import parse_eps
from purifyctl.errors import ConfigError

T = TypeVar("T")


def read_recipe(path: Path, config: type[T], overrides: Mapping[str, Any] | None = None) -> T:
    """Read a TOML recipe into the dataclass `config`. `overrides`: top-level keys that win over the file.

    Raises
    ------
    ConfigError
        The file is missing or is not TOML, a key is unknown or missing, or a value has the wrong type or range.
    """
    try:
        data = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"There is no recipe {path}.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from None
    try:
        return from_dict(config, {**data, **(overrides or {})})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", hint=error.hint) from None


def from_dict(config: type[T], data: Mapping[str, Any], where: str = "") -> T:
    """Build the dataclass `config` from plain data, and check names and types at every level."""
    fields = {f.name: f for f in dataclasses.fields(config)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(config)
    if unknown := sorted(set(data) - set(fields)):
        replaced: Mapping[str, str] = getattr(config, "REPLACED", {})
        hint = replaced.get(str(unknown[0]), f"keys here: {', '.join(fields)}")
        raise ConfigError(f"unknown key {where}{unknown[0]!s}.", hint=hint)
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise ConfigError(f"the key {where}{name} is missing.")
    return config(**{name: _convert(hints[name], value, where + name) for name, value in data.items()})


def to_dict(config: Any) -> dict[str, Any]:
    """The plain data of a config dataclass: what `from_dict` reads back."""
    data: dict[str, Any] = dataclasses.asdict(config)
    return data


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if type(None) in args:  # a key that may be left out
        return None if value is None else _convert(args[0], value, where)
    if origin is types.UnionType:  # a text, or a table that says more
        return _convert(args[0] if isinstance(value, str) else args[1], value, where)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(typing.cast("type[Any]", hint), value, f"{where}.")
    if origin is tuple and isinstance(value, list | tuple):
        hints = args[:1] * len(value) if args[-1] is Ellipsis else args
        if len(hints) == len(value):
            return tuple(_convert(each, v, where) for each, v in zip(hints, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {str(k): _convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if origin is Literal and isinstance(value, str) and value in args:
        return value
    if hint is Any:
        return value
    if hint is float and not isinstance(value, bool):
        if where.rpartition(".")[2] in ("eps", "validation_eps") and isinstance(value, int | float | str):
            return parse_eps(value)
        if isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    if (
        origin is None
        and hint is not float
        and isinstance(value, hint)
        and not (hint is int and isinstance(value, bool))
    ):
        return value
    raise ConfigError(f"{where} is {value!r}; it must be {_expected(hint)}.")


def _expected(hint: Any) -> str:
    """What a value of this type looks like in TOML."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return "a table"
    if origin is tuple:
        if dataclasses.is_dataclass(args[0]):
            return "tables in double brackets: [[...]]"
        return "a list" if args[-1] is Ellipsis else f"a list of {len(args)}"
    if origin is Literal:
        return f"one of {', '.join(map(repr, args))}"
    return {str: "text", int: "a whole number", float: "a finite number", bool: "true or false"}.get(hint, str(hint))
