"""Tables of figures can be read at every width: no word and no figure is broken, and nothing is lost."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purifyctl import console
from purifyctl.columns import GAP, fitting

WORDS = st.text("abcdefgh日", min_size=1, max_size=12)
HEADINGS = st.lists(st.lists(WORDS, min_size=1, max_size=4).map(" ".join), min_size=2, max_size=9)


@given(HEADINGS, st.integers(1, 3), st.integers(20, 140), st.data())
@settings(max_examples=200)
def test_every_column_is_there_once_beside_the_keys_and_fits(
    headings: list[str], keys: int, width: int, data: st.DataObject
) -> None:
    keys = min(keys, len(headings))
    rows = data.draw(st.lists(st.lists(WORDS, min_size=len(headings), max_size=len(headings)), max_size=4))
    pieces = list(fitting([headings, *rows], keys, width))
    seen = [column for piece in pieces for column in list(zip(*piece, strict=True))[keys:]]
    assert [(heading.split(), *cells) for heading, *cells in seen] == [
        (heading.split(), *cells) for heading, *cells in list(zip(headings, *rows, strict=True))[keys:]
    ]
    for piece in pieces:
        columns = list(zip(*piece, strict=True))
        wide = [max(console.cell_len(line) for cell in column for line in cell.split("\n")) for column in columns]
        assert sum(wide) + GAP * (len(wide) - 1) <= width or len(columns) <= keys + 1


@pytest.mark.parametrize("width", [60, 80, 120])
def test_figures_and_words_stay_whole_on_a_terminal(
    width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    defences = ["no defence", "JPEG-75", "5 bits", "median 3x3", "purifier", "gated purifier", "prediction changed"]
    figures = [f"{10 + i}.{i} %" for i in range(len(defences))]
    rows = [("PGD-100 (BPDA identity)", "76.5/255", "1,024", *figures), ("FGSM", "4/255", "1,024", *figures)]
    console.table("Gray-box", ("attack", "eps", "n", *defences), rows, keys=3)
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= width
    for text in (*figures, "PGD-100 (BPDA identity)", "76.5/255", "FGSM", *" ".join(defences).split()):
        assert re.search(rf"(?<!\S){re.escape(text)}(?!\S)", shown), text
    tables = shown.count("attack ")
    assert tables == {60: 4, 80: 2, 120: 1}[width]
    assert shown.count("FGSM") == tables


def test_a_long_reason_takes_several_lines_and_cuts_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    reason = "classes differ on 3.1 % of photographs, and 1 % is allowed; probabilities differ by up to 0.2"
    console.table("", ("precision", "ms per image", ""), [("int8", "3.41", reason), ("fp32", "8.20", "")])
    shown = capsys.readouterr().out
    assert max(map(len, shown.splitlines())) <= 80
    assert " ".join(reason.split()) in " ".join(line[25:].strip() for line in shown.splitlines()[2:])
