"""Archives from strangers: whatever they say costs one member or one archive, never the run or a good neighbour."""

import io
import os
import resource
import signal
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purifyctl.engine.bundle import Bundle
from purifyctl.errors import ImageError
from purifyctl.images.names import Naming
from purifyctl.labels import Labels
from purifyctl.run import run
from purifyctl.run.plan import Plan, write_plan
from purifyctl.sources import ImageFile, archive, list_images, open_source, read_file
from purifyctl.sources.tar import TarHeaders
from purifyctl.truth import TruthFromFolder
from tests import hostile_archives as made
from tests import tiny
from tests.remote import statuses_of

SECONDS = 10  # for one archive
# These only look odd: what they wrap is a file with a name and bytes of its own.
HARMLESS = {"10,000 extended headers", "global name and size", "link with data", "folder with data", "name of slashes"}
HARMLESS |= {"archive in a picture's place"}


@contextmanager
def bounded(megabytes: int) -> Iterator[None]:
    """Fails if the block takes more than `SECONDS`, or if this process grows by more than so much memory."""

    def stop(*_: object) -> None:
        raise AssertionError(f"it hangs: more than {SECONDS} s")

    def kib(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith(field)).split()[1])

    earlier, limits = signal.signal(signal.SIGALRM, stop), resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, ((kib("VmSize") << 10) + (4 << 30), limits[1]))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = kib("VmRSS")
    try:
        yield
        assert kib("VmHWM") - before < megabytes << 10
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, earlier)
        resource.setrlimit(resource.RLIMIT_AS, limits)


def read(image: ImageFile) -> bytes | None:
    try:
        return read_file(image, max_bytes=1 << 20).tobytes()
    except ImageError:
        return None


def check(case: made.Case, folder: Path) -> dict[str, bytes | None]:
    """Plan a folder that holds the archive, and read everything. Returns what was read."""
    (folder / "x.tar").write_bytes(case.archive)
    plan = folder / ".plan"
    truth = TruthFromFolder(Labels(()))
    write_plan(plan, open_source(folder).inputs(), naming=Naming("png"), truth=truth, batch_size=4)
    images = [one.image for part in range(Plan(plan).parts) for one in Plan(plan).part(part).inputs]
    found = {str(image.path): read(image) for image in images}
    assert len(found) == len(images), case.what
    for name, data in {"a.jpg": b"a", "z.jpg": b"z", **{f"x.tar/{n}": d for n, d in case.good.items()}}.items():
        assert found.get(name) == data, f"{case.what}: {name} is lost"
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "az":
        (tmp_path / f"{name}.jpg").write_text(name)
    return tmp_path


@pytest.mark.parametrize("fault", made.FAULTS)
def test_a_member_that_lies_costs_itself_alone(fault: str, folder: Path) -> None:
    with bounded(megabytes=64):
        found = check(made.wrapped(fault, made.FAULTS[fault]), folder)
    victims = [path for path in found if "good" not in path and path not in ("a.jpg", "z.jpg")]
    assert all(found[path] is None for path in victims) or fault in HARMLESS


@pytest.mark.slow
def test_three_thousand_archives_that_lie_lose_no_neighbour(folder: Path) -> None:
    for case in made.cases(3000, seed=21):
        with bounded(megabytes=64):
            check(case, folder)


def test_a_sparse_file_of_terabytes_takes_neither_time_nor_memory(folder: Path) -> None:
    for fault in ("negative base-256 size", "extended header beyond the archive", "negative PAX size"):
        with (folder / "x.tar").open("wb") as stream:
            stream.write(made.member(b"good.jpg") + made.FAULTS[fault])
            stream.truncate(4 << 40)
        with bounded(megabytes=64):
            found = {str(image.path): read(image) for image in list_images(folder)}
        assert found["x.tar/good.jpg"] == made.PIXELS
        assert found["x.tar"] is None


def test_an_archive_with_damage_everywhere_is_searched_for_a_limited_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("purifyctl.sources.tar.SEARCHED_BYTES", 1 << 20)
    (folder / "x.tar").write_bytes(made.member(b"good.jpg") + b"\1" * (3 << 20) + made.VICTIM + made.END)
    (whole, good) = [image for image in list_images(folder) if str(image.path).startswith("x.tar")]
    assert read(good) == made.PIXELS
    assert "was not searched for members" in whole.problem


def test_more_members_than_memory_may_hold_are_left_out_and_reported(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "HELD_BYTES", 10 * (archive.MEMBER_BYTES + 5))
    (folder / "x.tar").write_bytes(b"".join(made.member(b"%d.jpg" % i) for i in range(50)) + made.END)
    whole, *members = list_images(folder / "x.tar")
    assert len(members) == 11
    assert "too many members" in whole.problem


def test_a_pipe_or_a_device_that_is_called_an_archive_is_never_opened(folder: Path) -> None:
    os.mkfifo(folder / "pipe.tar")
    (folder / "zero.tar").symlink_to("/dev/zero")
    (folder / "pipe-link.tar").symlink_to("pipe.tar")
    (folder / "list").write_text("pipe.tar\nzero.tar\na.jpg")
    for files_from in (None, folder / "list"):
        with bounded(megabytes=64):
            found = {f.path: f.problem for f in open_source(folder).inputs(files_from=files_from)}
        assert found[b"a.jpg"] == ""
        assert all("a pipe, a socket or a device" in why for path, why in found.items() if b".tar" in path)
        assert b"zero.tar/" in found
        assert b"pipe.tar/" in found


def test_a_long_chain_of_links_is_followed_as_far_as_linux_follows_it(folder: Path) -> None:
    links = [made.header(b"%d.jpg" % i, kind=b"1", target=b"%d.jpg" % (i + 1)) for i in range(20_000)]
    (folder / "x.tar").write_bytes(b"".join(links) + made.member(b"20000.jpg") + made.END)
    with bounded(megabytes=64):
        found = {str(image.path): image.problem for image in list_images(folder / "x.tar")}
    assert len(found) == 20_001
    assert sum(not problem for problem in found.values()) == archive.LINKS + 1


def test_an_archive_that_has_shrunk_since_it_was_planned_gives_no_half_pictures(folder: Path) -> None:
    (folder / "x.tar").write_bytes(made.member(b"1.jpg") + made.END)
    (image,) = list_images(folder / "x.tar")
    (folder / "x.tar").write_bytes(made.member(b"1.jpg")[:1000])
    with pytest.raises(ImageError, match="written anew"):
        read_file(image)


@given(
    names=st.lists(
        st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=300), max_size=8
    ),
    sizes=st.lists(st.integers(0, 2000), min_size=8, max_size=8),
    kind=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_sound_archives_of_every_format_are_read_as_tarfile_reads_them(
    names: list[str], sizes: list[int], kind: int
) -> None:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as tar:
        for name, size in zip(names, sizes, strict=False):
            one = tarfile.TarInfo(name)
            one.size, one.mtime = size, 1_700_000_000
            try:
                tar.addfile(one, io.BytesIO(bytes(size)))
            except ValueError:
                continue  # the name is too long for this format
    stream.seek(0)
    with tarfile.open(fileobj=stream) as tar:
        expected = [(os.fsencode(m.name).rstrip(b"/"), m.offset_data, m.size, int(m.mtime)) for m in tar if m.isfile()]
    headers = TarHeaders(stream)
    found = [(m.name.rstrip(b"/"), m.start, m.size, m.mtime) for m in headers if m.kind == "file"]
    assert found == expected
    assert headers.problem == ""


@pytest.mark.slow
def test_a_run_over_archives_that_lie_is_finished_and_resumed(tiny_bundle: Bundle, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    photo = tiny.encoded(tiny.photograph(), "JPEG")
    for i, fault in enumerate(made.FAULTS.values()):
        good = made.member(b"good.jpg", photo)
        (photos / f"{i}.tar").write_bytes(good + fault + made.member(b"later.jpg", photo) + made.END)
    (photos / "good.jpg").write_bytes(photo)
    for _ in range(2):
        assert run(photos, tiny_bundle, tmp_path / "out").exit_code == 3
    statuses = statuses_of(tmp_path / "out")
    good_ones = [path for path in statuses if path.endswith(("good.jpg", "later.jpg"))]
    assert len(good_ones) == 2 * len(made.FAULTS) + 1
    assert all(statuses[path] == "ok" for path in good_ones)
    damaged = [i for i, fault in enumerate(made.FAULTS) if fault == "garbage between members"]
    assert [statuses[f"{i}.tar"] for i in damaged] == ["bad_archive"]
