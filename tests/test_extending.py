"""docs/extending.md does what it says: each change applies, touches the files that it lists, and its commands work."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests import tiny
from tests.commands import launcher

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.M | re.S))
BILL = {  # code files that a newcomer has to touch
    "An attack": 2,
    "A backend": 2,
    "An output format": 1,
    "A recipe key": 2,
    "An option of `run`": 2,
    "A classifier family": 2,
}
REFUSED = "  # refused:"  # marks a command that must fail with a usage error
COPIED = ("purifyctl", "train", "engines", "docs", "tests", "pyproject.toml")


def blocks(section: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", SECTIONS[section], re.M | re.S)


def commands(section: str) -> list[str]:
    return [line for block in blocks(section, "bash") for line in re.sub(r"\\\n\s*", " ", block).splitlines()]


def touched(section: str) -> list[str]:
    return re.findall(r"^\+\+\+ b/(.*)$", "".join(blocks(section, "diff")), re.M)


def test_every_example_has_its_bill() -> None:
    assert SECTIONS.keys() == BILL.keys()


@pytest.mark.parametrize("section", BILL)
def test_an_example_touches_as_few_files_as_it_says(section: str) -> None:
    listed = re.findall(r"`(purifyctl/[\w/.]+)`", SECTIONS[section].split("\n\n")[0])
    assert sorted(touched(section)) == sorted(listed)
    assert len(listed) == BILL[section]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the code, to be changed."""
    for name in COPIED:
        leave_out = shutil.ignore_patterns("__pycache__", "*.cache")
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tmp_path / "copy" / name, ignore=leave_out)
        else:
            shutil.copy(ROOT / name, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A folder as the page's reader has it."""
    tiny.photographs(tmp_path / "work" / "photos", 4)
    return tmp_path / "work"


@pytest.mark.slow
@pytest.mark.parametrize("section", BILL)
def test_an_example_works_unchanged(section: str, copy: Path, work: Path) -> None:
    for change in blocks(section, "diff"):
        applied = subprocess.run(
            ["git", "apply", "--whitespace=error", "-"],
            cwd=copy,
            input=change,
            capture_output=True,
            text=True,
            check=False,
        )
        assert applied.returncode == 0, applied.stderr
    python = Path(sys.executable).parent
    for check in (["format", "--check"], ["check"]):
        checked = subprocess.run(
            [python / "ruff", *check, "--config", "pyproject.toml", *touched(section)],
            cwd=copy,
            capture_output=True,
            text=True,
            check=False,
        )
        assert checked.returncode == 0, checked.stdout
    environment = {
        **os.environ,
        "PATH": f"{launcher(work / 'bin')}:{python}:{os.environ['PATH']}",
        "PYTHONPATH": str(copy),
        "NO_COLOR": "1",
    }
    assert commands(section)
    for command in commands(section):
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == (2 if REFUSED in command else 0), f"{command}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr, done.stderr
