"""What the tests share. `PURIFYCTL_DATA` names a folder with ImageNet photographs for the tests that need some."""

import atexit
import gc
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from purifyctl import cli, console, streams
from purifyctl.engine.bundle import Bundle, load_bundle
from purifyctl.engine.staging import one_at_a_time
from purifyctl.samples import copy_samples
from tests import tiny
from tests.commands import Call
from tests.exports import shared_in
from tests.warm_workers import forked_workers
from tests.web_server import Server, serving

os.environ.setdefault("MPLBACKEND", "Agg")
hypothesis.settings.register_profile("busy machines", deadline=None)
hypothesis.settings.load_profile("busy machines")
if workers := int(
    os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")
):  # they share the cores, and so do the processes that they start
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // workers))
    os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers share what their parent made: engines are built once for all
    made = Path(tempfile.mkdtemp(prefix="purifyctl-tests-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    # what the tests build, keep and trust must not reach the user's folders
    os.environ |= {"PURIFYCTL_STATE": str(made / "state"), "PURIFYCTL_CACHE": str(made / "cache")}
    os.environ["PURIFYCTL_TESTS"] = str(made)
SHARED = Path(os.environ["PURIFYCTL_TESTS"])  # by all processes of this test session, which ends with it

# Files whose tests take longest come first, so that no worker is left alone with one of them at the end.
LONGEST = (
    *("trial", "documented_commands", "cluster", "cli", "engine", "evaluation", "extending", "run_faults"),
    *("training_recipes", "wheel", "run_rows", "gradient_attacks", "cluster_fresh", "training_resume"),
    *(
        "training_phases",
        "training_runs",
        "fit",
        "doctor",
        "docs",
        "tensorrt_build",
        "run_whole",
        "run",
        "web",
        "run_grows",
    ),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:  # pytest's word
    """The longest files first."""
    place = {f"test_{name}.py": number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda test: place.get(test.path.name, len(place)))  # pytest's word


@pytest.fixture(scope="session", autouse=True)
def exports() -> Iterator[None]:
    """A network that some test has exported is not exported again."""
    with shared_in(SHARED / "exports"):
        yield


@pytest.fixture(scope="session", autouse=True)
def warm_workers() -> Iterator[None]:
    """Runs of this process have workers that start at once."""
    with forked_workers():
        yield


@pytest.fixture(autouse=True)
def console_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that calls a command in this process leaves the console as it was."""
    monkeypatch.setattr(console, "_settings", console._settings)


@pytest.fixture(scope="session")
def tiny_bundle() -> Bundle:
    """Built once for all processes of the session. Read only."""
    folder = SHARED / "tiny"
    with one_at_a_time(folder / "bundle"):
        return load_bundle(folder / "bundle") if (folder / "bundle").exists() else tiny.bundle(folder)


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 20 labelled sample photographs, in folders named by WordNet id. Read only."""
    folder = tmp_path_factory.mktemp("samples")
    copy_samples(folder, labelled_only=True)
    return folder


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Tiny networks lose more to threads that wait for each other than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Ten small photographs in two folders."""
    return tiny.photographs(tmp_path / "photos", 10, labelled=True)


@pytest.fixture
def server(photos: Path) -> Iterator[Server]:
    """A web server for the photographs."""
    with serving(photos) as serves:
        yield serves
    gc.collect()  # sessions end here, and not in another test


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of this process have parts of two batches."""
    from purifyctl.run import plan
    from tests.kills import PART_SIZE

    monkeypatch.setattr(plan, "PART_SIZE", PART_SIZE)


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 photographs, which are four small parts. Read only."""
    return tiny.photographs(tmp_path_factory.mktemp("many"), 30)


@pytest.fixture
def thirty(tmp_path: Path) -> Path:
    """30 photographs, named after two classes, of which the tiny gate flags some, not all."""
    return tiny.photographs(tmp_path / "photos", 30, labelled=True)


@pytest.fixture(scope="session")
def undisturbed(many: Path, tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run over `many`, in small parts, that nothing disturbed. Read only."""
    from tests.kills import run_in_small_parts

    return run_in_small_parts(many, tiny_bundle, tmp_path_factory.mktemp("undisturbed") / "out")


@pytest.fixture(scope="session")
def imagenet() -> Path:
    """The data folder that PURIFYCTL_DATA names."""
    folder = os.environ.get("PURIFYCTL_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("PURIFYCTL_DATA names no folder of ImageNet photographs")
    return Path(folder)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Call:
    """Calls the command line in this process, and returns what it prints, in colours.

    `code`: how it must end.
    """
    for stream in ("stdout", "stderr"):
        monkeypatch.setattr(sys, stream, getattr(sys, stream))
    monkeypatch.setattr(streams, "take_native", lambda show: console._beneath(sys.stderr))  # noqa: ARG005
    monkeypatch.setattr(console, "shows_bars", lambda: False)  # a bar moves up by our own means
    monkeypatch.setenv("FORCE_COLOR", "1")

    def called(*words: str | bytes | os.PathLike[str], code: int | None = None) -> bytes:
        monkeypatch.setattr(sys, "argv", ["purifyctl", *map(os.fsdecode, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert code in (None, ended.value.code), b"".join(capfdbinary.readouterr()).decode(errors="replace")
        sys.stdout.flush()
        return b"".join(capfdbinary.readouterr())

    return called
