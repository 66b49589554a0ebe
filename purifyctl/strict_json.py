"""Reads JSON that strangers may have written. What two readers could understand in two ways is refused."""

import json
from pathlib import Path
from typing import Any, NoReturn

from purifyctl.files import open_regular

MAX_BYTES = 64 << 20  # of a file
MAX_DEPTH = 64  # of lists and objects within each other


def read_json(file: Path) -> Any:
    """The plain data in a JSON file.

    Raises
    ------
    OSError
        It cannot be read, or is no regular file.
    ValueError
        As `parse_json` raises.
    """
    with open_regular(file) as stream:
        return parse_json(stream.read(MAX_BYTES + 1))


def parse_json(text: bytes | str) -> Any:
    """The plain data that JSON says: each key once, whole numbers of 64 bits, finite numbers, text that is whole.

    Raises
    ------
    ValueError
        It is no JSON, or breaks one of these rules, or is too long or nested too deeply.
    """
    if len(text) > MAX_BYTES:
        raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
    try:
        data = json.loads(
            text if isinstance(text, str) else text.decode(),  # json would guess UTF-16 and UTF-32
            object_pairs_hook=_object,
            parse_int=_whole_number,
            parse_float=_number,
            parse_constant=_constant,
        )
    except UnicodeDecodeError:
        raise ValueError("it is not in UTF-8") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    _check(data)
    return data


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {ascii(key)[:80]} stands twice in one object")
        found[key] = value
    return found


def _whole_number(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= (number := int(digits)) < 2**63:
        raise ValueError(f"the number {digits[:24]}{'...' if len(digits) > 24 else ''} is too large")
    return number


def _number(digits: str) -> float:
    if abs(number := float(digits)) == float("inf"):
        raise ValueError(f"the number {digits[:24]} is too large")
    return number


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number in JSON")


def _check(data: Any) -> None:
    level, depth = [data], 0
    while level:
        if depth > MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                below += [*value.keys(), *value.values()]
            elif isinstance(value, list):
                below += value
            elif isinstance(value, str) and any("\ud800" <= c <= "\udfff" for c in value):
                raise ValueError(f"it holds text with half a character: {ascii(value)[:80]}")
        level, depth = below, depth + 1
