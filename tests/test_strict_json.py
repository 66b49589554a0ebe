"""JSON that strangers wrote: it is read as what it says, or refused."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purifyctl.strict_json import MAX_DEPTH, parse_json, read_json

TEXT = st.text(st.characters(codec="utf-8"))
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=20,
)


@given(PLAIN)
def test_plain_data_is_read_as_it_was_written(data: Any) -> None:
    assert parse_json(json.dumps(data)) == data
    assert parse_json(json.dumps(data, ensure_ascii=False).encode()) == data


@given(st.binary(max_size=200) | TEXT)
def test_anything_else_is_refused_in_one_way(text: bytes | str) -> None:
    with contextlib.suppress(ValueError):
        data = parse_json(text)
        assert parse_json(json.dumps(data, allow_nan=False).encode()) == data


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"a": 1, "a": 2}', "stands twice"),
        ('[{"a": {"\\u0062": 1, "b": 1}}]', "stands twice"),
        ("NaN", "no number"),
        ("[-Infinity]", "no number"),
        ("1e400", "too large"),
        ("100000000000000000000", "too large"),
        ("9223372036854775808", "too large"),
        ("1" * 10_000, "too large"),
        ('"\\ud800"', "half a character"),
        ('{"\\udc00": 1}', "half a character"),
        ("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2), "nested too deeply"),
        ("[" * 1_000_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        (b"\xff\xfe[\0]\0", "not in UTF-8"),
        (b'"\xed\xa0\x80"', "not in UTF-8"),
        ("", "Expecting value"),
        ("[1] 2", "Extra data"),
    ],
)
def test_what_could_be_understood_in_two_ways_is_refused(text: str | bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_json(text)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "run.json")
    with pytest.raises(OSError, match="a pipe, a socket or a device"):
        read_json(tmp_path / "run.json")
