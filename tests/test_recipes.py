"""Recipes by name, and what the shell offers after TAB."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from purifyctl.config.formats import FORMAT
from purifyctl.config.recipes import Kind, built_in, find_recipe
from purifyctl.engine.bundle import Bundle
from purifyctl.errors import ConfigError

ROOT = Path(__file__).parents[1]
SCRIPT = Path(sys.executable).with_name("purifyctl")


@pytest.mark.parametrize(("folder", "kinds"), [("train", ("train", "train-gate")), ("engines", ("engines",))])
def test_every_recipe_of_the_checkout_goes_by_its_name(folder: str, kinds: tuple[Kind, ...]) -> None:
    files = {file.stem: file for file in (ROOT / folder).glob("*.toml")}
    assert len(files) > 3
    assert {name: file for kind in kinds for name, file in built_in(kind).items()} == files
    assert {name: find_recipe(name, kind) for kind in kinds for name in built_in(kind)} == files


@pytest.mark.parametrize(
    ("given", "kind", "command"), [("gate", "train", "train-gate"), ("cpu", "train", "build-engine")]
)
def test_another_commands_recipe_is_answered_with_that_command(given: str, kind: Kind, command: str) -> None:
    with pytest.raises(ConfigError, match=f"'{given}' is a recipe of purifyctl {command}"):
        find_recipe(given, kind)


def test_a_word_means_the_built_in_recipe_whatever_lies_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("shipped", "mine", "shipped.toml"):
        (tmp_path / name).touch()
    assert find_recipe("shipped", "train") == ROOT / "train" / "shipped.toml"
    assert find_recipe("./shipped", "train").samefile(tmp_path / "shipped")
    assert find_recipe("shipped.toml", "train").samefile(tmp_path / "shipped.toml")
    assert find_recipe(str(tmp_path / "mine"), "train").samefile(tmp_path / "mine")
    with pytest.raises(ConfigError, match="no built-in recipe 'mine'") as caught:
        find_recipe("mine", "train")
    assert "./mine" in caught.value.hint


@pytest.mark.parametrize("given", ["nope", "nope.toml", "train/nope", ""])
def test_a_recipe_that_is_not_there_is_answered_with_those_that_are(given: str) -> None:
    with pytest.raises(ConfigError, match="There is no") as caught:
        find_recipe(given, "engines")
    assert "cpu, imagenet-fp16, int8, rtx" in caught.value.hint


@pytest.mark.parametrize(
    ("command", "kind", "name"),
    [("train", "train", "paper"), ("train-gate", "train", "gate"), ("build-engine", "engines", "rtx")],
)
def test_a_built_in_recipe_is_printed_unchanged(command: str, kind: str, name: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "purifyctl", command, name, "--print"]
    done = subprocess.run(words, capture_output=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.stdout == (ROOT / kind / f"{name}.toml").read_bytes()
    assert (done.returncode, list(tmp_path.iterdir())) == (0, [])


def offered(line: str, cwd: Path = ROOT) -> list[str]:
    """What bash is offered for the last word of a command line, by its own protocol with typer."""
    words = line.split(" ")
    done = subprocess.run(
        [sys.executable, SCRIPT],
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "_PURIFYCTL_COMPLETE": "complete_bash",
            "COMP_WORDS": "\n".join(words),
            "COMP_CWORD": str(len(words) - 1),
        },
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "purifyctl train ",
            ["adaptive", "fit", "fixed-budget", "paper-small", "paper", "pix2pix-small", "pix2pix", "shipped", "smoke"],
        ),
        ("purifyctl train s", ["shipped", "smoke"]),
        ("purifyctl train-gate ", ["gate"]),
        ("purifyctl train ./", []),  # bash then offers files
        ("purifyctl build-engine i", ["imagenet-fp16", "int8"]),
        ("purifyctl build-engine --backend tensorrt", ["tensorrt", "tensorrt-rtx"]),
        ("purifyctl attack photos --out x --attack au", ["autoattack"]),
        ("purifyctl run photos --out clean --format ", [*FORMAT, "none"]),
        ("purifyctl re", ["report"]),
        ("purifyctl run photos --images", ["--images-to"]),
    ],
)
def test_the_shell_is_offered_what_can_stand_there(line: str, words: list[str]) -> None:
    assert sorted(offered(line)) == sorted(words)


@pytest.mark.slow
def test_the_shell_is_offered_engine_bundles_and_no_other_folders(tiny_bundle: Bundle, tmp_path: Path) -> None:
    for place in ("engines/mine", "engines/other", "here"):
        shutil.copytree(tiny_bundle.path, tmp_path / place)
    (tmp_path / "attacked").mkdir()
    (tmp_path / "attacked" / "manifest.json").write_text("{}")
    assert offered("purifyctl run x --engine ", tmp_path) == ["engines/mine", "engines/other", "here"]
    assert offered("purifyctl bench e", tmp_path) == ["engines/mine", "engines/other"]
    assert offered("purifyctl inspect engines/o", tmp_path) == ["engines/other"]
    assert offered(f"purifyctl doctor --engine {tmp_path}/h", tmp_path) == [str(tmp_path / "here")]
    assert offered("purifyctl inspect [", tmp_path) == []


def test_completion_imports_nothing_heavy() -> None:
    completed = "import sys; from purifyctl.cli.completion import *; training_recipes(''), bundles('')"
    code = f"{completed}; print([m for m in ('torch', 'numpy', 'PIL', 'purifyctl.engine.bundle') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_gets_a_script_that_it_can_read(shell: str) -> None:
    words = [sys.executable, SCRIPT, "--show-completion", shell]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    done = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert f"complete_{shell}" in done.stdout
    if shutil.which(shell):
        subprocess.run([shell, "-n"], input=done.stdout, text=True, check=True)


def test_bash_completes_a_recipe_once_the_script_is_installed(tmp_path: Path) -> None:
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    launcher = bin_folder / "purifyctl"
    launcher.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(SCRIPT))} "$@"\n')
    launcher.chmod(0o755)
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
    }
    twice = "purifyctl --install-completion; purifyctl --install-completion; true"  # finds out itself that this is bash
    subprocess.run(["bash", "-c", twice], env=environment, check=True, capture_output=True)
    assert (tmp_path / ".bashrc").read_text().count("source") == 1
    typed = (
        "source ~/.bashrc; COMP_WORDS=(purifyctl train sm); COMP_CWORD=2; "
        "_purifyctl_completion purifyctl; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", typed], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["smoke"]
