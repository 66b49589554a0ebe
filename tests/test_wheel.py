"""What `make dist` builds works where there is no checkout: installed beside the dependencies of this environment."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata

from purifyctl import __version__
from purifyctl.config.recipes import COMMANDS, built_in
from tests import tiny

ROOT = Path(__file__).parents[1]


def build(into: Path, root: Path = ROOT) -> tuple[Path, Path]:
    """The wheel and the source archive."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", into], cwd=root, check=True, capture_output=True)
    (wheel,), (archive,) = into.glob("*.whl"), into.glob("*.tar.gz")
    return wheel, archive


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def elsewhere(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel in it, that sees this one's packages but not this checkout."""
    folder = tmp_path_factory.mktemp("elsewhere") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    pip = [sys.executable, "-m", "pip", "--python", folder / "bin" / "python", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-deps", "--no-index", built[0]], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # its own .pth files are not read
    return folder


def called(venv: Path, *words: object, cwd: Path, program: str = "purifyctl") -> subprocess.CompletedProcess[str]:
    ours = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return subprocess.run(
        [venv / "bin" / program, *map(str, words)],
        cwd=cwd,
        env={**ours, "PURIFYCTL_CACHE": str(venv.parent / "cache"), "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def test_the_wheel_holds_what_runs_and_nothing_else(built: tuple[Path, Path]) -> None:
    names = set(zipfile.ZipFile(built[0]).namelist())
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    code = {name for name in tracked if name.startswith("purifyctl/")}
    recipes = {f"purifyctl/data/{name}" for name in tracked if name.startswith(("train/", "engines/"))}
    recipes = {name for name in recipes if name.endswith(".toml")}
    info, man = f"purifyctl-{__version__}.dist-info/", f"purifyctl-{__version__}.data/data/share/man/man1/"
    assert {name for name in names if not name.startswith((info, man))} == code | recipes
    assert {"purifyctl/py.typed", "purifyctl/data/purifier.safetensors", "purifyctl/report/run.html.j2"} <= names
    assert {"purifyctl/data/imagenet_classes.tsv", "purifyctl/data/train/paper.toml"} <= names
    assert {f"{info}licenses/LICENSE", f"{info}licenses/THIRD_PARTY_NOTICES.md"} <= names
    assert {f"{man}purifyctl.1", f"{man}purifyctl-run.1"} <= names
    assert built[0].stat().st_size < 5e6


def test_the_wheel_and_its_metadata_are_well_formed(built: tuple[Path, Path]) -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "check_wheel_contents", built[0]], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout
    text = zipfile.ZipFile(built[0]).read(f"purifyctl-{__version__}.dist-info/METADATA")
    metadata = Metadata.from_email(text, validate=True)
    assert str(metadata.version) == __version__
    assert metadata.license_expression == "Apache-2.0"
    assert metadata.description_content_type == "text/markdown"
    assert metadata.description == (ROOT / "README.md").read_text()


@pytest.mark.slow
def test_the_same_source_gives_the_same_bytes_and_so_does_the_source_archive(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    again = build(tmp_path / "again")
    assert [file.read_bytes() for file in again] == [file.read_bytes() for file in built]
    with tarfile.open(built[1]) as archive:
        # older Pythons have no filters, newer ones warn without one
        filters = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(tmp_path / "unpacked", **filters)
    (source,) = (tmp_path / "unpacked").iterdir()
    wheel, _ = build(tmp_path / "from-archive", source)
    assert wheel.read_bytes() == built[0].read_bytes()


@pytest.mark.slow
def test_the_installed_command_is_the_wheels_and_has_its_recipes(elsewhere: Path, tmp_path: Path) -> None:
    where = called(elsewhere, "-c", "import purifyctl; print(purifyctl.__file__)", cwd=tmp_path, program="python")
    assert Path(where.stdout.strip()).is_relative_to(elsewhere)
    assert called(elsewhere, "--version", cwd=tmp_path).stdout == f"purifyctl {__version__}\n"
    for kind, command in COMMANDS.items():
        for name, recipe in built_in(kind).items():
            printed = called(elsewhere, command, name, "--print", cwd=tmp_path)
            assert printed.stdout == recipe.read_text(), printed.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(shutil.which("man") is None, reason="man is not installed")
def test_man_finds_the_pages_of_an_environment_that_is_in_the_path(elsewhere: Path) -> None:
    path = {"PATH": f"{elsewhere}/bin:/usr/bin:/bin", "LC_ALL": "C"}
    found = subprocess.run(["man", "-w", "purifyctl", "purifyctl-run"], env=path, capture_output=True, text=True)
    pages = elsewhere / "share" / "man" / "man1"
    assert found.stdout.split() == [str(pages / "purifyctl.1"), str(pages / "purifyctl-run.1")], found.stderr


@pytest.mark.slow
def test_the_wheel_trains_builds_and_runs_in_an_empty_folder(elsewhere: Path, tmp_path: Path) -> None:
    doctor = called(elsewhere, "doctor", "--json", cwd=tmp_path)
    assert json.loads(doctor.stdout)["works"], doctor.stdout
    trained = called(elsewhere, "train", "smoke", "--max-steps", 2, cwd=tmp_path)
    assert trained.returncode == 0, trained.stderr
    assert (tmp_path / "runs" / "smoke" / "purifier.safetensors").is_file()
    engine = called(
        *(elsewhere, "build-engine", "cpu", "--checkpoint", "runs/smoke", "--classifier", "none"),
        *("--image-size", tiny.SIZE),
        cwd=tmp_path,
    )
    assert engine.returncode == 0, engine.stderr
    for seed in (0, 1):
        file = tmp_path / "photos" / f"{seed}.jpg"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(tiny.encoded(tiny.photograph(seed=seed), "JPEG"))
    run = called(elsewhere, "run", "photos", "--out", "clean", "--engine", "engines/cpu", "--json", cwd=tmp_path)
    assert json.loads(run.stdout)["statuses"] == {"ok": 2}, run.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "engines", "photos", "clean"}
