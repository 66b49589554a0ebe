"""The container recipe, as far as it can be tried without an engine: linted, and its steps run in a folder."""

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

from purifyctl import __version__
from tests.test_wheel import build

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "Containerfile"


def instructions(kind: str) -> list[str]:
    """The values of all instructions of one kind."""
    with RECIPE.open("rb") as file:
        return [step["value"] for step in DockerfileParser(fileobj=file).structure if step["instruction"] == kind]


def run_step(words: str, cwd: Path, python: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The RUN step that contains `words`, as the engine's shell would run it. Only its places differ: /src is `cwd`."""
    (step,) = (step for step in instructions("RUN") if words in step)
    command = re.sub(r"^(--mount=\S+\s+)+", "", step).replace("/src", str(cwd))
    command = re.sub(r"(?<= )/(cache|work)\b", rf"{cwd}/\1", command)
    path = f"{python.parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["/bin/sh", "-c", command],
        cwd=cwd,
        env={**environment, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def context(tmp_path: Path) -> Path:
    """What an engine would send: the paths that .dockerignore lets through."""
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    folder = tmp_path / "context"
    for pattern in kept:
        found = list(ROOT.glob(pattern))
        assert found, pattern
        for path in found:
            place = folder / path.relative_to(ROOT)
            if path.is_dir():
                shutil.copytree(path, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, place)
    return folder


def test_the_linter_finds_nothing() -> None:
    linter = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([linter, RECIPE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_the_image_runs_as_a_user_without_rights_and_its_entry_point_is_the_command() -> None:
    (user,) = instructions("USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)  # by number: an orchestrator can see that it is not root
    (entry,) = instructions("ENTRYPOINT")
    assert json.loads(entry) == ["purifyctl"]  # no shell between, so that SIGTERM arrives
    (home,) = re.findall(r"HOME=(\S+)", " ".join(instructions("ENV")))
    assert instructions("VOLUME") == [f'["{home}"]']


def test_every_lock_file_that_the_image_may_be_built_from_exists() -> None:
    text = RECIPE.read_text()
    (listed,) = re.findall(r"^# Which lock file: (.*)\.$", text, re.M)
    names = re.findall(r"(\w+) \(", listed)
    assert "ARG LOCK=" + names[0] in text
    assert all((ROOT / "requirements" / f"{name}.lock").is_file() for name in names)
    assert names == ["demo", "tensorrt", "gpu"]


def test_the_images_python_is_one_that_the_package_takes() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (version,) = re.findall(r"^ARG PYTHON=3\.(\d+)$", RECIPE.read_text(), re.M)
    low, high = map(int, re.findall(r"3\.(\d+)", project["requires-python"]))
    assert low <= int(version) < high


@pytest.mark.slow
@pytest.mark.parametrize("lock", ["demo", "gpu"])
def test_the_locked_packages_are_those_that_the_tests_run_with(lock: str, context: Path) -> None:
    """The install step itself, without downloads: it succeeds if everything is here, in these versions."""
    offline = {"PIP_DRY_RUN": "1", "PIP_NO_INDEX": "1", "LOCK": lock}
    done = run_step("--require-hashes", context, Path(sys.executable), **offline)
    assert done.returncode == 0, done.stderr
    assert "Would install" not in done.stdout


@pytest.mark.slow
def test_the_images_wheel_is_the_wheel_and_installs(context: Path, tmp_path: Path) -> None:
    done = run_step("hatchling build", context, Path(sys.executable))
    assert done.returncode == 0, done.stderr
    (wheel,) = (context / "dist").iterdir()
    assert wheel.read_bytes() == build(tmp_path / "dist")[0].read_bytes()
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    done = run_step("--no-deps", context, python)
    assert done.returncode == 0, done.stderr
    assert f"Successfully installed purifyctl-{__version__}" in done.stdout
    assert python.with_name("purifyctl").is_file()


def test_anybody_may_write_into_the_folders_of_the_image(context: Path) -> None:
    assert run_step("mkdir", context, Path(sys.executable)).returncode == 0
    for name in ("cache", "work"):
        assert stat.S_IMODE((context / name).stat().st_mode) == 0o1777


def test_every_step_of_the_recipe_is_run_by_these_tests() -> None:
    tried = ("--require-hashes", "hatchling build", "--no-deps", "mkdir")
    assert [sum(words in step for words in tried) for step in instructions("RUN")] == [1] * len(tried)
