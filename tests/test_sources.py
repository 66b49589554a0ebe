"""Sources on this machine: folders, lists, archives, and what is in them that is no picture."""

import contextlib
import io
import os
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purifyctl.errors import ConfigError, ImageError
from purifyctl.sources import ImageFile, list_images, open_source, read_file
from purifyctl.sources.listing import sorted_lines
from purifyctl.sources.sketch import count_known, sketch
from tests import tiny


def test_listing_is_sorted_and_leaves_out_hidden_files_and_the_output(tmp_path: Path) -> None:
    for name in ("b/2.jpg", "a/1.jpg", "a/.hidden.jpg", ".git/x.jpg", "out/images/1.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [str(image.path) for image in list_images(tmp_path, skip_folder=tmp_path / "out")]
    assert found == ["a/1.jpg", "b/2.jpg", "notes.txt"]
    assert [str(i.path) for i in list_images(tmp_path, include=["*.jpg"], exclude=["out/*", "b/*"])] == ["a/1.jpg"]


def test_a_source_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no files"):
        list_images(tmp_path)
    with pytest.raises(ConfigError, match="no folder or file"):
        list_images(tmp_path / "missing")


def test_what_is_no_regular_file_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    for file in (pipe, tmp_path / "missing.jpg", tmp_path):
        with pytest.raises(ImageError) as caught:
            read_file(ImageFile(file, PurePosixPath(file.name)))
        assert caught.value.status == "unreadable"


def test_a_file_of_many_bytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "video.mp4"
    with file.open("wb") as stream:
        stream.truncate(10 * 2**40)  # sparse
    with pytest.raises(ImageError) as caught:
        read_file(ImageFile(file, PurePosixPath(file.name)))
    assert caught.value.status == "too_large"


def test_archives_are_read_where_their_members_lie(tmp_path: Path) -> None:
    photo = tiny.encoded(tiny.photograph(), "JPEG")
    with tarfile.open(tmp_path / "part-0.tar", "w") as archive:
        for name in ("cats/1.jpg", "cats/1.json", "dogs/._2.jpg", "/dogs/2.jpg", "./cats//1.jpg", "../../etc/3.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(photo)
            archive.addfile(member, io.BytesIO(photo))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    (tmp_path / "loose.jpg").write_bytes(photo)
    (tmp_path / "part-0.tar.md5").touch()
    found = {str(image.path): image for image in list_images(tmp_path, exclude=["*.md5"])}
    good = ["loose.jpg", "part-0.tar/cats/1.jpg", "part-0.tar/dogs/2.jpg"]
    bad = {"part-0.tar/../../etc/3.jpg": "out of the archive", "part-0.tar/link.jpg": "a link"}
    assert set(found) == {*good, *bad}
    assert all(read_file(found[path]).tobytes() == photo for path in good)
    for path, why in bad.items():
        with pytest.raises(ImageError, match=why):
            read_file(found[path])
    alone = list_images(tmp_path / "part-0.tar")
    assert [image.path for image in alone] == [found[path].path for path in sorted(found)[1:]]


def test_a_damaged_archive_is_an_input_that_cannot_be_read_beside_what_it_still_holds(tmp_path: Path) -> None:
    photo = tiny.encoded(tiny.photograph(), "JPEG")
    with tarfile.open(tmp_path / "short.tar", "w") as archive:
        for name in ("1.jpg", "2.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(photo)
            archive.addfile(member, io.BytesIO(photo))
    data = (tmp_path / "short.tar").read_bytes()
    (tmp_path / "short.tar").write_bytes(data[: 2 * tarfile.BLOCKSIZE + len(photo)])
    (tmp_path / "bad.tar").write_bytes(b"no archive" * 200)
    found = list_images(tmp_path)
    assert [str(image.path) for image in found] == ["bad.tar", "short.tar", "short.tar/1.jpg"]
    assert [bool(image.problem) for image in found] == [True, True, False]


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\0"])
def test_a_list_names_the_files_to_take(separator: str, tmp_path: Path) -> None:
    names = ["b/2.jpg", "./a/1.jpg", "", "b/2.jpg", str(tmp_path / "c.jpg"), "gone.jpg", "b//3.jpg"]
    (tmp_path / "list").write_text(separator.join(names))
    found = list(open_source(tmp_path).inputs(files_from=tmp_path / "list", exclude=["*3.jpg"]))
    assert [f.path for f in found] == [b"a/1.jpg", b"b/2.jpg", b"c.jpg", b"gone.jpg"]
    assert found[1].file == os.fsencode(tmp_path / "b" / "2.jpg")


@pytest.mark.parametrize("name", ["/etc/passwd", "../x.jpg", "a/../../x.jpg", "."])
def test_a_list_that_leads_out_of_the_source_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(name)
    with pytest.raises(ConfigError, match="no file in SRC"):
        list(open_source(tmp_path).inputs(files_from=tmp_path / "list"))


@given(st.lists(st.binary(max_size=4).filter(lambda b: b"\0" not in b)), st.integers(1, 5))
def test_sorting_on_disk_is_sorting(lines: list[bytes], in_memory: int) -> None:
    assert list(sorted_lines(iter(lines), in_memory)) == sorted(lines)


def test_links_to_folders_and_folders_that_cannot_be_listed_are_inputs_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "1.jpg").touch()
    (tmp_path / "again").symlink_to("cats")
    (tmp_path / "circle").symlink_to("circle")
    found = {str(image.path): image.problem for image in list_images(tmp_path)}
    assert set(found) == {"again", "cats/1.jpg", "circle"}
    assert "link to a folder" in found["again"]


@given(st.lists(st.lists(st.text("aB.-/_", min_size=1, max_size=3), min_size=1, max_size=3), max_size=12))
def test_the_listing_is_in_the_order_of_the_paths_whatever_they_are_called(names: list[list[str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for parts in names:
            file = root.joinpath(*(part.replace("/", "").lstrip(".") or "x" for part in parts))
            with contextlib.suppress(OSError):  # a file where a folder should be
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
        expected = sorted(os.fsencode(f.relative_to(root)) for f in root.rglob("*") if f.is_file())
        assert [found.path for found in open_source(root).inputs()] == expected


def test_a_sketch_knows_its_photographs_wherever_they_lie_and_no_others(tmp_path: Path) -> None:
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        for i in range(9):
            (tmp_path / folder / f"{i}.jpg").write_bytes(bytes(i))
    (tmp_path / "there" / "0.jpg").write_bytes(b"another")
    here, there = list_images(tmp_path / "here"), list_images(tmp_path / "there")
    assert count_known(here, sketch(here)) == 9
    assert count_known(there, sketch(here)) == 8
    assert count_known(here, sketch(here, limit=4)) == count_known(here, sketch(here[::-1], limit=4)) == 4
    assert count_known(here, "") == count_known([], sketch(here)) == 0
