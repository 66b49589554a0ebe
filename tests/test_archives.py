"""Purified images in archives."""

import os
import shutil
import tarfile
from pathlib import Path

import pytest

from purifyctl.engine.bundle import Bundle
from purifyctl.errors import BackendError, ConfigError, OutputError
from purifyctl.run import RunOptions, archives, plan, run
from purifyctl.sources import list_images, read_file
from tests import tiny
from tests.kills import PART_SIZE, assert_same, faulty, files_of, rows_of, run_in_small_parts

IN_ARCHIVES = RunOptions(packed=True)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "PART_SIZE", PART_SIZE)


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 images in three parts; the name of one is not text."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "cats").mkdir()
    for i in range(19):
        (folder / "cats" / f"{i:02}.jpg").write_bytes(tiny.encoded(tiny.photograph(seed=i), "JPEG"))
    (folder / os.fsdecode(b"caf\xe9\n.png")).write_bytes(tiny.encoded(tiny.photograph(seed=19), "PNG"))
    return folder


@pytest.fixture(scope="module")
def undisturbed(many: Path, tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_in_small_parts(many, tiny_bundle, tmp_path_factory.mktemp("undisturbed") / "out", IN_ARCHIVES)


def images_in(out: Path) -> dict[str, bytes]:
    """By name, of all archives."""
    found = {}
    for file in sorted((out / "images").glob("*.tar")):
        with tarfile.open(file) as tar:
            for member in tar:
                data = tar.extractfile(member)
                assert data is not None
                found[member.name] = data.read()
    return found


def test_archives_hold_the_images_of_a_run_that_writes_a_tree(
    many: Path, undisturbed: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    run(many, tiny_bundle, tmp_path / "tree")
    tree = {name.removeprefix("images/"): data for name, data in files_of(tmp_path / "tree").items()}
    assert images_in(undisturbed) == tree
    assert sorted(p.name for p in (undisturbed / "images").iterdir()) == ["00000.tar", "00001.tar", "00002.tar"]


def test_rows_name_images_as_a_run_over_the_archives_would(undisturbed: Path) -> None:
    found = list_images(undisturbed / "images")
    named = [row["output"] for row in rows_of(undisturbed)]
    assert sorted(named) == sorted(os.fsencode(f"images/{i.path}").decode("utf-8", "backslashreplace") for i in found)
    assert all(bytes(read_file(image)).startswith(b"\x89PNG") for image in found)


@pytest.mark.slow
def test_a_run_that_is_stopped_is_resumed_and_ends_with_the_same_archives(
    many: Path, undisturbed: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(BackendError, match="device is gone"):
        run(many, tiny_bundle, tmp_path / "out", IN_ARCHIVES, worker=faulty("engine-fails=4"))
    assert list((tmp_path / "out" / "images").glob(".*.waiting"))  # what is done is kept
    assert run(many, tiny_bundle, tmp_path / "out", IN_ARCHIVES).exit_code == 0
    assert_same(tmp_path / "out", undisturbed)


def test_an_image_is_found_in_its_tree_in_its_archive_and_where_it_waits(undisturbed: Path, tmp_path: Path) -> None:
    in_archive = plan.PurePosixPath("images/00000.tar/cats/00.png")
    expected = archives.read_image(undisturbed, in_archive)
    assert expected == images_in(undisturbed)["cats/00.png"]
    waiting, in_tree = tmp_path / archives.waiting_place(in_archive), plan.PurePosixPath("images/cats/00.png")
    for file in (waiting, tmp_path / in_tree):
        file.parent.mkdir(parents=True)
        file.write_bytes(expected)
    assert archives.read_image(tmp_path, in_archive) == archives.read_image(tmp_path, in_tree) == expected


@pytest.mark.slow
def test_what_is_tried_again_joins_the_archive_of_its_part(
    many: Path, undisturbed: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    file = many / "cats" / "05.jpg"
    photograph = file.read_bytes()
    file.write_bytes(b"")
    try:
        assert run(many, tiny_bundle, tmp_path / "out", IN_ARCHIVES).exit_code == 3
        assert "cats/05.png" not in images_in(tmp_path / "out")
    finally:
        file.write_bytes(photograph)
    again = RunOptions(packed=True, retry_failed=True)
    assert run(many, tiny_bundle, tmp_path / "out", again).exit_code == 0
    assert_same(tmp_path / "out", undisturbed)


def test_an_image_that_is_gone_before_its_archive_was_written_is_missed(undisturbed: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"images/00000\.tar/a\.png has been written, and is gone"):
        archives.write_archive(tmp_path, 0, [plan.PurePosixPath("images/00000.tar/a.png")], temporary=tmp_path)
    assert not (tmp_path / "images").exists()


def test_an_archive_that_a_power_cut_damaged_is_written_anew_from_what_waits(tmp_path: Path) -> None:
    output = plan.PurePosixPath("images/00000.tar/a.png")
    (tmp_path / archives.waiting_place(output)).parent.mkdir(parents=True)
    (tmp_path / archives.waiting_place(output)).write_bytes(b"pixels")
    (tmp_path / "images" / "00000.tar").touch()
    archives.write_archive(tmp_path, 0, [output], temporary=tmp_path)
    assert archives.read_image(tmp_path, output) == b"pixels"


def test_what_a_kill_between_rows_and_tidying_left_is_removed_by_the_next_call(
    many: Path, undisturbed: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(undisturbed, out)
    (out / "images" / ".00001.tar.waiting" / "cats").mkdir(parents=True)
    assert run(many, tiny_bundle, out, IN_ARCHIVES).exit_code == 0
    assert_same(out, undisturbed)
    assert not list((out / "images").glob(".*"))


def test_rows_only_and_archives_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match="no images to put into archives"):
        RunOptions(packed=True, image_format=None)
