"""Containers and read-only machines: users without a name or a home, folders that cannot be written."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from purifyctl.config.classifier import ClassifierOptions
from purifyctl.engine import default
from purifyctl.engine.bundle import Bundle
from tests import tiny

ROOT = Path(__file__).parents[1]
UID = 12345  # has no entry in passwd
# reading is allowed, because Python and the photographs may lie in a folder of root's; writing is not
CAPABILITIES = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")
SOMEBODY = ["setpriv", "--reuid", str(UID), "--regid", str(UID), "--clear-groups", *CAPABILITIES]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can be somebody else"),
]


def somebody(*words: object, before: tuple[str, ...] = (), **environment: str) -> subprocess.CompletedProcess[str]:
    """A command of a user whom the system does not know, with nothing but this in the environment."""
    done = subprocess.run(
        [*before, *SOMEBODY, sys.executable, "-m", "purifyctl", *map(str, words)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        | environment,
        cwd="/",
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert "WARNING" not in done.stderr  # of libraries
    return done


@pytest.fixture
def work(tiny_bundle: Bundle) -> Iterator[Path]:
    """A folder that the user owns, with photographs and an engine. It does not lie in pytest's, which is closed."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        tiny.photographs(work / "photos", 2)
        shutil.copytree(tiny_bundle.path, work / "engine")
        (work / "tmp").mkdir()
        for path in (work, *work.rglob("*")):
            os.chown(path, UID, UID)
        yield work


def warnings(said: str) -> list[str]:
    return [line for line in said.splitlines() if "warning" in line or "cannot" in line]


def test_an_engine_that_cannot_be_kept_is_built_for_one_call_and_one_line_says_so(work: Path) -> None:
    words = ("run", work / "photos", "--out", work / "out", "--classifier", "none")
    done = somebody(*words, TMPDIR=str(work / "tmp"))
    assert done.returncode == 0, done.stderr
    (said,) = warnings(done.stderr)
    assert "again at each call" in said
    assert said.endswith("set PURIFYCTL_CACHE and PURIFYCTL_STATE.")
    assert len(list((work / "out" / "images").iterdir())) == 2
    assert list((work / "tmp").glob("purifyctl*")) == []


@pytest.mark.parametrize("home", ["/", "/root"])
def test_doctor_tells_what_run_will_do_where_it_cannot_write(home: str, work: Path) -> None:
    done = somebody("doctor", "--json", "--out", work / "out", HOME=home, TMPDIR=str(work / "tmp"))
    checks = {check["id"]: check for check in json.loads(done.stdout)["checks"]}
    assert done.returncode == 0, done.stderr
    for name in ("cache", "state"):
        assert checks[f"disk.{name}"]["status"] == "missing"
        assert checks[f"disk.{name}"]["fix"] == f"set PURIFYCTL_{name.upper()}"
    assert "built again at each call" in checks["disk.cache"]["detail"]
    assert checks["disk.temporary"]["status"] == checks["disk.out"]["status"] == "ok"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of root's with an engine and the note that it was built here, as in an image."""
    kept = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PURIFYCTL_STATE", str(kept / "state"))
        patch.setenv("PURIFYCTL_CACHE", str(kept / "cache"))
        default.default_engine(ClassifierOptions(classifier="none"))
    return kept


def test_an_engine_that_came_with_the_image_is_used_although_nothing_can_be_written_beside_it(
    kept: Path, work: Path
) -> None:
    there = {"PURIFYCTL_STATE": str(kept / "state"), "PURIFYCTL_CACHE": str(kept / "cache")}
    words = ("run", work / "photos", "--out", work / "out", "--classifier", "none")
    done = somebody(*words, **there)
    assert done.returncode == 0, done.stderr
    assert warnings(done.stderr) == []
    assert "Building" not in done.stderr


def test_trust_that_cannot_be_written_down_reaches_the_worker(work: Path) -> None:
    words = ("run", work / "photos", "--engine", work / "engine", "--out", work / "out")
    done = somebody(*words)
    assert done.returncode == 1
    assert "was not built here" in done.stderr
    done = somebody(*words, "--trust")
    assert done.returncode == 0, done.stderr
    (said,) = warnings(done.stderr)
    assert "is trusted this once. Set PURIFYCTL_STATE." in said
    assert somebody("report", work / "out").returncode == 0
    assert (work / "out" / "report.html").stat().st_size > 1000


def test_torch_works_for_a_user_without_a_name_or_a_home(work: Path) -> None:
    words = ("attack", work / "photos", "--out", work / "out", "--attack", "fgsm")
    done = somebody(*words, "--classifier", "tests.tiny:classifier", "--image-size", "64")
    assert done.returncode == 0, done.stderr
    assert warnings(done.stderr) == []


def test_on_a_read_only_machine_a_run_needs_its_output_folder_alone(work: Path) -> None:
    (work / "out").mkdir()
    read_only = f"mount --make-rprivate / && mount -o remount,bind,ro / && mount -t tmpfs -o mode=777 none {work}/out"
    before = ("unshare", "--mount", "sh", "-c", f'{read_only} && exec "$@"', "sh")
    if subprocess.run([*before, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this sandbox does not let folders be mounted")
    engine = ("--engine", work / "engine", "--trust")
    for out, more, code, said in (
        (work / "out" / "one", engine, 0, "trusted this once"),
        (work / "two", engine, 2, f"{work}/two cannot be written to: Read-only file system"),
        (work / "out" / "three", ("--classifier", "none"), 2, "no place for an engine"),
    ):
        done = somebody("run", work / "photos", "--out", out, *more, before=before)
        assert (done.returncode, said in done.stderr) == (code, True), done.stderr
