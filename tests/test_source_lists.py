"""Lists of files, as people and other systems write them."""

import os
from pathlib import Path

import pytest

from purifyctl.errors import ConfigError
from purifyctl.sources import open_source
from purifyctl.sources.choice import Choice


def listed(root: Path, text: bytes) -> list[bytes]:
    (root / "list.txt").write_bytes(text)
    return [found.path for found in open_source(root).inputs(files_from=root / "list.txt")]


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\0"])
def test_a_list_names_the_files_to_take(separator: str, tmp_path: Path) -> None:
    names = ["b/2.jpg", "./a/1.jpg", "", "b/2.jpg", str(tmp_path / "c.jpg"), "gone.jpg", "b//3.jpg"]
    (tmp_path / "list").write_text(separator.join(names))
    found = list(open_source(tmp_path).inputs(Choice(exclude=["*3.jpg"]), files_from=tmp_path / "list"))
    assert [f.path for f in found] == [b"a/1.jpg", b"b/2.jpg", b"c.jpg", b"gone.jpg"]
    assert found[1].file == os.fsencode(tmp_path / "b" / "2.jpg")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_the_way_a_list_is_encoded_does_not_matter(encoding: str, tmp_path: Path) -> None:
    mark = {"utf-16-le": b"\xff\xfe", "utf-16-be": b"\xfe\xff"}.get(encoding, b"")
    assert listed(tmp_path, mark + "turned.jpg\r\nstill ü.gif\n".encode(encoding)) == [
        "still ü.gif".encode(),
        b"turned.jpg",
    ]


def test_names_that_are_no_utf8_are_taken_as_the_file_system_has_them(tmp_path: Path) -> None:
    assert listed(tmp_path, b"caf\xe9.jpg\n") == [b"caf\xe9.jpg"]


def test_spaces_at_the_end_empty_lines_and_comments_are_no_names(tmp_path: Path) -> None:
    text = b"# the best ones\n\n1.jpg  \t\n   \n#\n#2.jpg\n 3.jpg\n./# 4.jpg"
    assert listed(tmp_path, text) == [b" 3.jpg", b"# 4.jpg", b"#2.jpg", b"1.jpg"]
    assert listed(tmp_path, b"1.jpg \0# 2.jpg\0") == [b"# 2.jpg", b"1.jpg "]  # between NUL bytes names are exact


def test_what_a_list_names_is_an_input_whatever_it_is_called_and_holds(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    assert listed(tmp_path, b"notes.txt") == [b"notes.txt"]


@pytest.mark.parametrize("name", ["/etc/passwd", "../x.jpg", "a/../../x.jpg", "."])
def test_an_error_in_a_list_names_the_list_the_line_and_what_is_wrong(name: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"list\.txt, line 3: '.*' is no file in SRC"):
        listed(tmp_path, f"1.jpg\n\n{name}\n2.jpg\n".encode())


@pytest.mark.parametrize(
    ("text", "why"),
    [(b"\n# nothing\n", "names no file"), (b"\xff\xfea", "begins as UTF-16 and is not"), (None, "There is no file")],
)
def test_a_list_that_cannot_be_used_is_refused(text: bytes | None, why: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "list").write_bytes(text)
    with pytest.raises(ConfigError, match=why):
        list(open_source(tmp_path).inputs(files_from=tmp_path / "list"))
