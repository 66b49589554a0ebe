import json
import re
import shlex
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest
from typer.main import get_command

from purifyctl.cli import app
from purifyctl.config.evaluate import EvaluateOptions
from purifyctl.config.options import about
from purifyctl.engine.bundle import Bundle
from tests import tiny
from tests.commands import purifyctl, purifyctl_anew

ROOT = Path(__file__).parents[1]
COMMANDS = get_command(app).commands


def test_help_answers_at_once_because_it_imports_nothing_heavy() -> None:
    code = "import sys, purifyctl.cli; print([m for m in ('torch', 'numpy', 'PIL', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_the_console_prints() -> None:
    for file in (ROOT / "purifyctl").rglob("*.py"):
        if file.name != "console.py":
            assert not re.search(r"^\s*print\(|typer\.s?echo|sys\.stdout\.|Console\(", file.read_text(), re.M), file


def test_the_first_help_says_what_each_command_does_under_headings() -> None:
    for width in ("80", "120"):
        text = purifyctl("--help", COLUMNS=width).stdout
        headings = re.findall(r"^╭─ (\w+) ─", text, re.M)
        assert headings == ["Options", "Everyday", "Training", "Engines", "Evaluation"]
        for name, command in COMMANDS.items():
            assert re.search(rf"│ {name} +{re.escape(command.short_help)} +│", text), (width, name)  # on one line
            assert "purifyctl" not in command.short_help


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_says_what_it_does_and_then_gives_an_example(name: str) -> None:
    first, *_, example = COMMANDS[name].help.split("\n\n")
    assert not first.startswith(("[bold]", "Example"))
    assert example.startswith(f"Example: [bold]purifyctl {name}")
    assert purifyctl(name, "--help").returncode == 0


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme(name: str) -> None:
    assert f"purifyctl {name}" in (ROOT / "README.md").read_text()


# extending.md is left out: its commands need its changes, and tests/test_extending.py runs them
PAGES = [ROOT / "README.md", *sorted(page for page in ROOT.glob("docs/*.md") if page.name != "extending.md")]


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_every_command_line_in_the_docs_is_one_that_parses(file: Path) -> None:
    blocks = re.findall(r"^```\w*\n(.*?)^```", file.read_text(), re.M | re.S)
    lines = re.findall(r"^(?:exec )?(purifyctl .*)$", "".join(blocks).replace("\\\n", ""), re.M)
    assert len(lines) >= 5 or file.name != "README.md"
    for line in lines:
        _, name, *words = shlex.split(line, comments=True)
        COMMANDS[name].make_context(name, words)


@pytest.mark.slow
def test_run_prints_json_alone_on_stdout_and_events_on_stderr(
    photos: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    (photos / "bad.jpg").write_bytes(tiny.hostile_files()["truncated.jpg"][0])  # decoders complain from native code
    done = purifyctl("run", photos, "--engine", tiny_bundle.path, "--out", tmp_path / "out", "--json")
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout)["statuses"] == {"ok": 10, "decode_failed": 1}
    for line in done.stderr.splitlines():
        json.loads(line)


@pytest.mark.slow
def test_run_says_how_many_failed_and_exits_with_3(tiny_bundle: Bundle, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "empty.jpg").touch()
    (source / "good.jpg").write_bytes(tiny.encoded(tiny.photograph(), "JPEG"))
    done = purifyctl_anew("run", source, "--engine", tiny_bundle.path, "--out", tmp_path / "out")
    assert done.returncode == 3, done.stderr
    assert "1 of 2 inputs failed:\n  empty.jpg: empty. The file is empty." in done.stderr


@pytest.mark.slow
def test_build_engine_and_run_work_from_the_command_line(photos: Path, tmp_path: Path) -> None:
    checkpoint = tiny.checkpoint(tmp_path / "run")
    built = purifyctl(
        *("build-engine", "--checkpoint", checkpoint, "--out", tmp_path / "bundle", "--backend", "onnxruntime"),
        *("--classifier", "tests.tiny:classifier", "--image-size", 64, "--batch-size", 3),
    )
    assert built.returncode == 0, built.stderr
    done = purifyctl("run", photos, "--engine", tmp_path / "bundle", "--out", tmp_path / "out", "--classifier", "none")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_attack_writes_its_folder_and_prints_its_manifest(photos: Path, tmp_path: Path) -> None:
    (photos / "empty.jpg").touch()
    words = ("attack", photos, "--out", tmp_path / "out", "--attack", "fgsm", "--json")
    done = purifyctl(*words, "--classifier", "tests.tiny:classifier", "--image-size", 64)
    assert done.returncode == 3, done.stderr
    assert json.loads(done.stdout) == json.loads((tmp_path / "out" / "manifest.json").read_text())
    for line in done.stderr.splitlines():
        json.loads(line)


@pytest.mark.slow
def test_evaluate_works_from_the_command_line_and_refuses_other_settings(photos: Path, tmp_path: Path) -> None:
    words = (
        *("evaluate", "--photos", photos, "--out", tmp_path / "out", "--checkpoint", tiny.checkpoint(tmp_path / "run")),
        *("--classifier", "tests.tiny:animals", "--labels", "predicted", "--rungs", "gray-box,adaptive", "--limit", 6),
        *("--attack", "fgsm", "--attack", "pgd-2", "--eps", "8/255,16/255", "--eps-space", "signed"),
        *("--expensive-limit", 2, "--batch-size", 4, "--image-size", 64),
    )
    done = purifyctl(*words, "--json", OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document == json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert {cell["eps_text"] for cell in document["cells"]} == {"", "4/255", "8/255"}
    assert set(document["settings"]) == {  # as in version 0.1.0, whose folders are resumed
        *("classifier", "purifiers", "surrogates", "random", "photographs", "labels", "ladder", "expensive_limit"),
        *("image_size", "batch_size", "seed", "versions", "device"),
    }
    later = {"max_pixels", "colour", "background", "damaged"}  # recorded where they are not the default
    recorded = {option.recorded_as or f.name for f in fields(EvaluateOptions) if (option := about(f))}
    assert recorded - later - {"gate"} <= set(document["settings"])  # --gate adds this one
    for line in done.stderr.splitlines():
        json.loads(line)
    again = purifyctl(*words, OMP_NUM_THREADS="1")
    assert again.returncode == 0, again.stderr
    assert "Gray-box" in again.stdout
    other = purifyctl(*words, "--seed", 1)
    assert other.returncode == 2
    assert "seed was 0, is 1" in other.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["run", "/no/such/folder", "--out", "OUT", "--engine", "BUNDLE"], 2, "no folder or file /no/such/folder"),
        (["run", "tests", "--out", "OUT", "--engine", "tests"], 1, "no engine bundle"),
        (["run", "tests", "--out", "OUT", "--engine", "BUNDLE", "--classifier", "resnet50"], 2, "can only be none"),
        (["run", "tests", "--out", "OUT", "--weights", "x.pth"], 2, "--classifier names none"),
        (["run", "tests"], 2, "Missing option"),
        (["run"], 2, "Missing argument"),
        (["attack", "tests", "--out", "OUT", "--attack", "magic"], 2, "magic"),
        (["attack", "tests", "--out", "OUT", "--attack", "fgsm", "--restarts", "2"], 2, "restarts are for pgd"),
        (["attack", "tests", "--out", "OUT", "--weights", "x.pth"], 2, "--classifier names none"),
        (["attack", "docs/images", "--out", "OUT", "--eps", "8", "--classifier", "TINY"], 2, 'did you mean "8/255"'),
        (
            ["attack", "docs/images", "--out", "OUT", "--target", "fish", "--classifier", "TINY"],
            2,
            "'fish' is no class",
        ),
        (["train", "no.toml"], 2, "no recipe no.toml"),
        (["train", "train/shipped.toml"], 2, "names no photographs"),
        (["build-engine", "--checkpoint", "no.safetensors", "--out", "OUT"], 1, "no checkpoint"),
        (["evaluate", "--photos", "/no/such/folder", "--out", "OUT"], 2, "no folder or file /no/such/folder"),
        (["attack", "s3://bucket/photos", "--out", "OUT"], 2, "only run reads from URLs"),
        (["evaluate", "--photos", "tests", "--out", "OUT", "--attack", "pdg"], 2, "no attack 'pdg'"),
        (["evaluate", "--photos", "tests", "--out", "OUT", "--rungs", "grey"], 2, "no rung 'grey'"),
        (["evaluate", "--photos", "tests", "--out", "OUT", "--weights", "x.pth"], 2, "--classifier names none"),
        (["evaluate", "--photos", "docs/images", "--out", "OUT", "--checkpoint", "no.safetensors"], 1, "no checkpoint"),
        (["build-engine", "--backend", "tensorrt-rtx", "--target", "SM1", "--out", "OUT"], 2, "does not build for SM1"),
        (["build-engine", "--backend", "onnxruntime", "--precision", "bf16", "--out", "OUT"], 2, "does not run bf16"),
    ],
)
def test_mistakes_are_reported_in_one_message_with_their_exit_code(
    words: list[str], code: int, said: str, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    places = {"OUT": str(tmp_path / "out"), "BUNDLE": str(tiny_bundle.path), "TINY": "tests.tiny:classifier"}
    done = purifyctl(*(places.get(word, word) for word in words))
    assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
    assert said in done.stderr
    assert not (tmp_path / "out").exists()


def test_debug_shows_the_traceback_and_keeps_the_exit_code() -> None:
    done = purifyctl("--debug", "train", "no.toml")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


@pytest.mark.slow
def test_run_without_an_engine_builds_the_shipped_one_once_and_says_so(photos: Path, tmp_path: Path) -> None:
    cache = {"PURIFYCTL_CACHE": str(tmp_path / "cache")}
    # small and without a classifier: built sooner
    words = ("run", photos, "--classifier", "none", "--size", 64, "--out")
    first = purifyctl(*words, tmp_path / "one", **cache)
    assert first.returncode == 0, first.stderr
    assert "Building the shipped purifier" in first.stderr
    second = purifyctl(*words, tmp_path / "two", **cache)
    assert second.returncode == 0, second.stderr
    assert "Building" not in second.stderr
    (manifest,) = (tmp_path / "cache").rglob("manifest.json")
    manifest.unlink()
    third = purifyctl(*words, tmp_path / "three", **cache)
    assert third.returncode == 0, third.stderr
    assert "built again" in third.stderr


@pytest.mark.slow
def test_the_demo_restores_photographs_and_draws_them(tmp_path: Path) -> None:
    done = purifyctl("demo", "--out", tmp_path / "demo", "--json")
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)["top1"]
    assert figures["clean"]["unpurified_top1"] >= 0.7
    for attack in ("FGSM 4/255", "PGD-10 4/255"):
        assert figures[attack]["top1"] > figures[attack]["unpurified_top1"]
    assert (tmp_path / "demo" / "strip.png").stat().st_size > 100_000
    again = purifyctl("demo", "--out", ROOT / "tests")
    assert again.returncode == 2
    assert "not an earlier demo's" in again.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("run", "photos", "--out", "out", "--unflagged", "leave"),
        ("run", "photos", "--out", "out", "--unflagged", "copy"),  # what it would be anyway
        ("run", "photos", "--out", "out", "--gate-fpr", "5%"),
        ("run", "photos", "--out", "out", "--gate-fpr", "1%"),
        ("evaluate", "--photos", "photos", "--out", "out", "--gate-fpr", "1%"),
        ("evaluate", "--photos", "photos", "--out", "out", "--gate-fpr", "5%"),
    ],
)
def test_what_is_for_a_gate_is_refused_without_one(words: tuple[str, ...]) -> None:
    done = purifyctl(*words)
    assert done.returncode == 2
    assert "add --gate" in done.stderr


@pytest.mark.slow
def test_a_run_on_a_cpu_imports_no_torch_in_either_process(photos: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    words = ("run", photos, "--engine", tiny_bundle.path, "--out", tmp_path / "out", "--verbose")
    done = purifyctl_anew(*words, PYTHONPROFILEIMPORTTIME="1")
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert done.returncode == 0, done.stderr[-2000:]
    assert {"purifyctl.run.worker.stages", "openvino"} <= imported  # the worker's are there, too
    assert "torch" not in imported
