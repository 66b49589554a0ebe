"""The manual pages: of every command, with every option, and readable by man."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from typer.main import get_command

from purifyctl.cli import app
from tools.manual import write_pages

ROOT = Path(__file__).parents[1]
COMMANDS = get_command(app).commands


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {page.stem: page for page in write_pages(tmp_path_factory.mktemp("man"))}


def rendered(page: Path) -> str:
    """As a reader sees it, in one line."""
    plain = {"PATH": "/usr/bin:/bin", "GROFF_NO_SGR": "1", "LC_ALL": "C.UTF-8"}
    words = ["groff", "-man", "-Tascii", "-ww", "-rHY=0", "-rLL=1000n", page]
    done = subprocess.run(words, capture_output=True, text=True, env=plain, check=True)
    assert done.stderr == ""
    return " ".join(re.sub(".\b", "", done.stdout).split())


def test_there_is_a_page_for_every_command_and_the_first_names_them_all(pages: dict[str, Path]) -> None:
    assert set(pages) == {"purifyctl", *(f"purifyctl-{name}" for name in COMMANDS)}
    for name in COMMANDS:
        assert f"purifyctl-{name}(1)".replace("-", "\\-") in pages["purifyctl"].read_text()


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
@pytest.mark.parametrize("name", COMMANDS)
def test_a_page_says_all_that_the_help_says(name: str, pages: dict[str, Path]) -> None:
    text = rendered(pages[f"purifyctl-{name}"])
    assert f"EXAMPLES purifyctl {name}" in text
    for parameter in COMMANDS[name].params:
        for option in parameter.opts if parameter.param_type_name == "option" else ():
            assert re.search(rf" {option}[ ,]", text)
        help_text = re.sub(r"\[/?(bold)?\]", "", parameter.help).replace("\\[", "[")
        assert " ".join(help_text.split()) in text
    assert "[/]" not in text
    assert "[bold]" not in text


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not installed")
def test_a_page_keeps_defaults_and_brackets(pages: dict[str, Path]) -> None:
    text = rendered(pages["purifyctl-run"])
    assert "Number of classes in each row. [default: 5; x>=1]" in text
    assert "Run folder for images, rows and summary. [required]" in text
    assert "--ray [ADDRESS] " in text
    assert "pip install 'purifyctl[cloud]'" in text


def test_building_a_wheel_needs_no_more_than_it_declares() -> None:
    """Elsewhere `pip install .` makes the pages in an environment that has these packages and no others."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    allowed, todo = set(), [Requirement(text) for text in declared]
    while todo:
        requirement = todo.pop()
        name = requirement.name.lower().replace("_", "-")
        if name not in allowed and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            allowed.add(name)
            todo += map(Requirement, metadata.requires(name) or ())
    code = "import sys; before = set(sys.modules); import tools.manual; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {module.partition(".")[0] for module in done.stdout.split()} - {"purifyctl", "tools"}
    packages = metadata.packages_distributions()
    needed = {name.lower().replace("_", "-") for module in imported for name in packages.get(module, ())}
    assert {"typer", "rich", "docutils"} <= needed
    assert needed <= allowed
