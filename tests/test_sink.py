from pathlib import Path, PurePosixPath

from purifyctl.files import write_atomically
from purifyctl.images.sink import printable


def test_a_name_as_long_as_names_can_be_is_written(tmp_path: Path) -> None:
    file = tmp_path / ("x" * 251 + ".png")
    write_atomically(file, b"data")
    assert [f.name for f in tmp_path.iterdir()] == [file.name]


def test_names_that_are_no_utf8_become_printable() -> None:
    assert printable(PurePosixPath("a\udcff/ü\n.jpg")) == "a\\xff/ü\n.jpg"
