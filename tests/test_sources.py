"""Sources on this machine: folders, lists, archives, and what is in them that is no picture."""

import contextlib
import io
import os
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purifyctl.errors import ConfigError, ImageError
from purifyctl.sources import ImageFile, list_images, open_source, read_file
from purifyctl.sources.choice import SKIPPED, Choice, described
from purifyctl.sources.listing import sorted_lines
from purifyctl.sources.sketch import count_known, sketch
from tests import tiny


def listed(root: Path, *include: str, exclude: Sequence[str] = (), strict: bool = False) -> list[str]:
    return [os.fsdecode(found.path) for found in open_source(root).inputs(Choice(include, exclude, strict=strict))]


def test_listing_is_sorted_and_leaves_out_hidden_files_and_the_output(tmp_path: Path) -> None:
    for name in ("b/2.jpg", "a/1.jpg", "a/.hidden.jpg", ".git/x.jpg", "out/images/1.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [str(image.path) for image in list_images(tmp_path, skip_folder=tmp_path / "out")]
    assert found == ["a/1.jpg", "b/2.jpg"]
    assert [str(i.path) for i in list_images(tmp_path, include=["*.jpg"], exclude=["out/*", "b/*"])] == ["a/1.jpg"]
    assert listed(tmp_path, exclude=["out"], strict=True) == ["a/1.jpg", "b/2.jpg", "notes.txt"]


def test_a_source_without_pictures_is_refused_and_what_it_holds_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no pictures\."):
        list_images(tmp_path)
    (tmp_path / "a.xml").touch()
    with pytest.raises(ConfigError, match=r"holds no pictures to take\. Left out: no pictures: 1 \(a\.xml\)"):
        list_images(tmp_path)
    with pytest.raises(ConfigError, match="no folder or file"):
        list_images(tmp_path / "missing")


def test_a_picture_is_what_is_called_one_or_begins_like_one(tmp_path: Path) -> None:
    photo = tiny.photograph()
    for kind in ("JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "JPEG2000"):
        (tmp_path / f"a {kind}").write_bytes(tiny.encoded(photo, kind))
    for name in ("b.jpg", "b.NEF", "b.heic", "b.Gif"):
        (tmp_path / name).touch()
    pictures = sorted(p.name for p in tmp_path.iterdir())
    for name in ("Thumbs.db", "desktop.ini", "labels.csv", "nothing", "BMW.txt", "P1 is the best.md"):
        (tmp_path / name).write_text(name)
    os.mkfifo(tmp_path / "pipe")  # it would wait for a writer
    choice = Choice()
    assert [os.fsdecode(f.path) for f in open_source(tmp_path).inputs(choice)] == pictures
    left_out = choice.left_out.facts()
    assert left_out == {SKIPPED: {"n": 7, "such_as": ["BMW.txt", "P1 is the best.md", "Thumbs.db"]}}
    assert described(left_out) == "no pictures: 7 (BMW.txt, P1 is the best.md, Thumbs.db, ...)"
    assert len(listed(tmp_path, strict=True)) == len(pictures) + 7


def test_folders_of_systems_and_of_runs_are_left_out_and_reported(tmp_path: Path) -> None:
    for name in ("@eaDir/1.jpg/THUMB.jpg", "2.jpg", "clean/images/2.png", "other/run.json", "other/3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("run.json", "plan.parquet"):
        (tmp_path / "clean" / name).touch()
    choice = Choice()
    assert [f.path for f in open_source(tmp_path).inputs(choice)] == [b"2.jpg", b"other/3.jpg"]
    facts = choice.left_out.facts()
    assert facts["folders of runs"]["such_as"] == ["clean/"]
    assert facts["folders of systems"]["such_as"] == ["@eaDir/"]
    assert listed(tmp_path / "clean") == ["images/2.png"]  # named, it is a source like any other


@pytest.mark.parametrize(
    ("include", "exclude", "left"),
    [
        (["*.jpg"], [], ["1.JPG", "cats/2.jpg", "cats/kittens/3.jpg", "dogs/4.jpg"]),
        (["**/*.jpg"], [], ["1.JPG", "cats/2.jpg", "cats/kittens/3.jpg", "dogs/4.jpg"]),
        (["/*.jpg"], [], ["1.JPG"]),
        (["./1.jpg"], [], ["1.JPG"]),
        (["cats"], [], ["cats/2.jpg", "cats/kittens/3.jpg"]),
        (["cats/*"], [], ["cats/2.jpg", "cats/kittens/3.jpg"]),
        (["cats/*.jpg"], [], ["cats/2.jpg"]),
        ([], ["cats"], ["1.JPG", "dogs/4.jpg", "dogs/5.png"]),
        ([], ["kittens/"], ["1.JPG", "cats/2.jpg", "dogs/4.jpg", "dogs/5.png"]),
        (["*.jpg"], ["cats", "!cats/2.jpg"], ["1.JPG", "cats/2.jpg", "dogs/4.jpg"]),
    ],
)
def test_globs_follow_the_rules_of_gitignore_and_case_does_not_matter(
    include: list[str], exclude: list[str], left: list[str], tmp_path: Path
) -> None:
    for name in ("1.JPG", "cats/2.jpg", "cats/kittens/3.jpg", "dogs/4.jpg", "dogs/5.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert listed(tmp_path, *include, exclude=exclude) == left


def test_it_is_told_how_many_files_each_glob_left_out(tmp_path: Path) -> None:
    for name in ("1.jpg", "2.jpg", "3.png", "4.gif"):
        (tmp_path / name).touch()
    choice = Choice(["*.jpg", "*.png"], ["2.*", "5.jpg"])
    assert [f.path for f in open_source(tmp_path).inputs(choice)] == [b"1.jpg", b"3.png"]
    told = described(choice.left_out.facts())
    assert told == "by --exclude '2.*': 1 (2.jpg); by --exclude '5.jpg': 0; not in --include: 1 (4.gif)"


@pytest.mark.parametrize("glob", ["", "/", "[", "\\"])
def test_a_glob_that_can_match_nothing_is_refused(glob: str) -> None:
    with pytest.raises(ConfigError, match="is no glob"):
        Choice(exclude=[glob])


def test_what_is_no_regular_file_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    for file in (pipe, tmp_path / "missing.jpg", tmp_path):
        with pytest.raises(ImageError) as caught:
            read_file(ImageFile(file, PurePosixPath(file.name)))
        assert caught.value.status == "unreadable"


def test_a_file_that_becomes_a_pipe_under_the_reader_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, regular = tmp_path / "pipe.jpg", Path(__file__).stat()
    os.mkfifo(pipe)
    monkeypatch.setattr(Path, "stat", lambda *_, **__: regular)  # what it was a moment ago
    with pytest.raises(ImageError, match="a pipe, a socket or a device"):
        read_file(ImageFile(pipe, PurePosixPath(pipe.name)))


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
            archive.addfile(member, io.BytesIO(photo if name.endswith(".jpg") else b"{".ljust(len(photo))))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    (tmp_path / "loose.jpg").write_bytes(photo)
    (tmp_path / "part-0.tar.md5").touch()
    found = {str(image.path): image for image in list_images(tmp_path, exclude=["*.md5"])}
    good = ["loose.jpg", "part-0.tar/cats/1.jpg", "part-0.tar/dogs/2.jpg"]
    bad = {"part-0.tar/../../etc/3.jpg": "out of the archive", "part-0.tar/link.jpg": "not in the archive"}
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


@given(st.lists(st.binary(max_size=4).filter(lambda b: b"\0" not in b)), st.integers(1, 5))
def test_sorting_on_disk_is_sorting(lines: list[bytes], in_memory: int) -> None:
    assert list(sorted_lines(iter(lines), in_memory)) == sorted(lines)


def test_links_to_folders_are_followed_unless_their_files_are_listed_anyway(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("root/cats/1.jpg", "elsewhere/dogs/2.jpg", "root/.store/birds/3.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    links = {"again": "cats", "birds": ".store/birds", "circle": "circle", "dogs": "../elsewhere/dogs", "up": ".."}
    for name, target in links.items():
        (root / name).symlink_to(target)
    (tmp_path / "elsewhere" / "dogs" / "around").symlink_to("..")
    (tmp_path / "elsewhere" / "dogs" / "more").symlink_to("../../root/cats")
    choice = Choice()
    found = {os.fsdecode(f.path): f for f in open_source(root).inputs(choice)}
    assert list(found) == ["birds/3.jpg", "cats/1.jpg", "circle", "dogs/2.jpg"]
    told = choice.left_out.facts()["links to folders that are listed anyway"]
    assert (told["n"], told["such_as"]) == (4, ["again/", "dogs/around/", "dogs/more/"])
    with pytest.raises(ImageError, match="cannot be read"):
        read_file(found["circle"].as_image())


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
        assert [found.path for found in open_source(root).inputs(Choice(strict=True))] == expected


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


def test_an_archive_has_the_inputs_that_it_would_have_if_it_were_unpacked(tmp_path: Path) -> None:
    photo, text = tiny.encoded(tiny.photograph(), "JPEG"), b"7"
    names = ["a.jpg", "b.jfif", "c.jpe", "d", "e.JPG", "f.gif", "g.j2k", "h.pbm", "sub/k.data", "sub/l.jpg"]
    others = ["i.json", "j.cls", ".hidden/m.jpg", "__MACOSX/n.jpg", "sub/.o.jpg", "@eaDir/p.jpg"]
    with tarfile.open(tmp_path / "mixed.tar", "w") as archive:
        for name in names + others:
            member = tarfile.TarInfo(name)
            data = text if name.endswith(("json", "cls")) else photo
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        links = {"hard": "d", "sub/soft.jpg": "../a.jpg", "sub/soft": "l.jpg"}
        for name, target in links.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.LNKTYPE if name == "hard" else tarfile.SYMTYPE, target
            archive.addfile(member)
    with tarfile.open(tmp_path / "mixed.tar") as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    packed, unpacked = list_images(tmp_path / "mixed.tar"), list_images(tmp_path / "unpacked")
    assert [str(image.path.relative_to("mixed.tar")) for image in packed] == [str(image.path) for image in unpacked]
    assert [str(image.path) for image in unpacked] == sorted([*names, *links])
    for one, other in zip(packed, unpacked, strict=True):
        assert read_file(one).tobytes() == read_file(other).tobytes() == photo
    assert listed(tmp_path / "mixed.tar", strict=True) == sorted(
        f"mixed.tar/{name}" for name in (*names, *links, "i.json", "j.cls")
    )


def test_a_member_of_an_archive_that_was_written_anew_is_not_taken_for_another(tmp_path: Path) -> None:
    def write(*names: str) -> None:
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            for name in names:
                member = tarfile.TarInfo(name)
                member.size = 600 + len(name)
                archive.addfile(member, io.BytesIO(name.encode().ljust(member.size)))

    write("1.jpg", "2.jpg")
    one, two = list_images(tmp_path)
    write("1.jpg", "1b.jpg", "2.jpg")
    assert bytes(read_file(one)[:5]) == b"1.jpg"
    with pytest.raises(ImageError, match="written anew"):
        read_file(two)
