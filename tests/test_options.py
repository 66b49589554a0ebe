"""A command's options are defined once: the dataclass's fields give flags, help and what resuming must repeat."""

import json
import pickle
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.main import get_command
from typer.testing import CliRunner

from purifyctl.cli import app
from purifyctl.cli.options import command
from purifyctl.config.attack import AttackOptions
from purifyctl.config.bench import BenchOptions
from purifyctl.config.build import BuildOptions
from purifyctl.config.evaluate import EvaluateOptions
from purifyctl.config.options import about, identity, option
from purifyctl.config.run import ALWAYS_WRITTEN, RunOptions
from purifyctl.config.train import TrainGateOptions, TrainOptions
from purifyctl.engine.bundle import Bundle
from purifyctl.errors import ConfigError
from purifyctl.run import run

ROOT = Path(__file__).parents[1]
COMMANDS = get_command(app).commands
OPTIONS = {
    "run": RunOptions,
    "attack": AttackOptions,
    "evaluate": EvaluateOptions,
    "bench": BenchOptions,
    "build-engine": BuildOptions,
    "train": TrainOptions,
    "train-gate": TrainGateOptions,
}
# What version 0.1.0 wrote into run.json for a run without options.
OLD_OPTIONS = {
    "image_format": "png", "packed": False, "classify": True, "compare": False, "top": 5,
    "include": [], "exclude": [], "limit": None, "max_pixels": 100_000_000,
}  # fmt: skip


@dataclass(frozen=True)
class WithMore(RunOptions):
    """The options of `run` as a newcomer would extend them."""

    sharpness: int = option(3, minimum=1, help="How sharp.")
    nickname: str = option("", may_change=True, help="What to call it.")


@pytest.mark.parametrize("name", OPTIONS)
def test_every_flag_of_a_command_says_what_its_field_says(name: str) -> None:
    shown = {parameter.name: parameter for parameter in COMMANDS[name].params}
    for own in fields(OPTIONS[name]):
        said = about(own)
        if said is None:
            assert (name, own.name) == ("run", "classify")  # --classifier none
            continue
        flag = "/".join(filter(None, [said.flag or f"--{own.name.replace('_', '-')}", said.former]))
        assert "/".join([*shown[own.name].opts, *shown[own.name].secondary_opts]) == flag
        assert shown[own.name].help == said.help
        assert shown[own.name].multiple == (isinstance(own.default, tuple) and said.parse is None)
        if shown[own.name].default is not None and not shown[own.name].multiple:
            assert shown[own.name].default == own.default


def test_a_field_more_is_a_flag_more_and_part_of_the_identity_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(app, "registered_commands", [])
    got: list[WithMore] = []

    @command("try", short_help="Try.", panel="Trials")
    def attempt(*, source: str, options: WithMore) -> None:
        got.append(options)

    words = ["try", "x", "--sharpness", "7", "--nickname", "a", "--format", "none", "--shard", "1/4"]
    assert CliRunner().invoke(app, [*words, "--include", "a/*", "--include", "b/*", "--verbose"]).exit_code == 0
    options = WithMore(
        sharpness=7, nickname="a", image_format=None, shard=(1, 4), include=("a/*", "b/*")
    )  # not typed: defaults
    assert got == [options]
    assert CliRunner().invoke(app, ["try", "x", "--sharpness", "0", "--verbose"]).exit_code == 2
    assert identity(options)["sharpness"] == 7
    assert "nickname" not in identity(options)
    assert "sharpness" not in identity(WithMore(), always=ALWAYS_WRITTEN)  # older folders can still be resumed
    with pytest.raises(ConfigError, match="sharpness is 0; it must be at least 1"):
        WithMore(sharpness=0)


def values(own: Any) -> st.SearchStrategy[Any]:
    """Values of a field of RunOptions that may stand alone."""
    if own.name == "image_format":
        return st.sampled_from(["png", "webp", "jpeg", None])
    if own.name == "background":
        return st.sampled_from(["#ffffff", "#000000"])
    if get_origin(own.type) is Literal:
        return st.sampled_from(get_args(own.type))
    kind = next((kind for kind in (bool, int) if kind in get_args(own.type)), own.type)
    globs = st.lists(st.sampled_from(["a/*", "b/*", "*.png"]))
    return {bool: st.booleans(), int: st.integers(1, 10**9), tuple[str, ...]: globs.map(tuple)}[kind]


DECISIVE = [f for f in fields(RunOptions) if not (about(f) and (about(f).may_change or about(f).recorded_as))]


@given(st.data())
def test_changing_any_option_that_is_not_marked_otherwise_changes_the_identity(data: st.DataObject) -> None:
    decisive = data.draw(st.sampled_from(DECISIVE))
    one, two = (replace(RunOptions(), **{decisive.name: data.draw(values(decisive))}) for _ in range(2))
    same = getattr(one, decisive.name) == getattr(two, decisive.name)
    for always in ((), ALWAYS_WRITTEN):
        assert (identity(one, always=always) == identity(two, always=always)) == same


def test_resuming_may_only_change_how_a_run_is_done() -> None:
    free = {f.name for f in fields(RunOptions) if about(f) and about(f).may_change}
    assert free == {
        "compression", "csv", "device", "jsonl", "max_errors", "on_existing", "retry_failed", "shard", "image_timeout",
        "ray", "workers",
    }  # fmt: skip
    elsewhere = {f.name for f in fields(RunOptions) if about(f) and about(f).recorded_as}
    assert elsewhere == {"images_to", "gated", "gate_fpr", "unflagged", "files_from", "size", "truth"}


@pytest.mark.slow
def test_a_run_writes_its_options_as_version_0_1_0_did(photos: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    run(photos, tiny_bundle, tmp_path / "plain", RunOptions(csv=True, compare=False))
    assert json.loads((tmp_path / "plain" / "run.json").read_text())["options"] == OLD_OPTIONS
    names = sorted(file.relative_to(photos).as_posix() for file in photos.rglob("*.jpg"))
    (photos.parent / "list").write_text("\n".join(names[:3]))
    listed = RunOptions(compare=False, gated=True, gate_fpr=0.05, files_from=photos.parent / "list")
    run(photos, tiny_bundle, tmp_path / "gated", listed)
    written = json.loads((tmp_path / "gated" / "run.json").read_text())["options"]
    assert len(written.pop("files_from")) == 64
    assert written == {**OLD_OPTIONS, "gate": 0.05, "unflagged": "copy"}


def test_a_folder_of_version_0_1_0_is_resumed_with_the_same_options_only(
    photos: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(photos, tiny_bundle, out, RunOptions())
    settings = json.loads((out / "run.json").read_text())
    (out / "run.json").write_text(json.dumps({**settings, "options": OLD_OPTIONS}))
    again = run(photos, tiny_bundle, out, RunOptions(retry_failed=True))
    assert (again.exit_code, again.summary["this_call"]["rows"]) == (0, 0)
    with pytest.raises(ConfigError, match=r"options\.top was 5, is 3"):
        run(photos, tiny_bundle, out, RunOptions(top=3))
    with pytest.raises(ConfigError, match=r"options\.gate was None, is 0\.01"):
        run(photos, tiny_bundle, out, RunOptions(gated=True))


def test_what_is_recorded_in_another_form_must_be_repeated_too(
    photos: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    listed = tmp_path / "list"
    listed.write_text("\n".join(sorted(str(file.relative_to(photos)) for file in photos.rglob("*.jpg"))[:4]))
    options = RunOptions(gated=True, files_from=listed)
    run(photos, tiny_bundle, tmp_path / "out", options)
    changes = {
        "gated": False,
        "gate_fpr": 0.05,
        "unflagged": "leave",
        "images_to": "memory://store",
        "files_from": None,
        "size": "original",
        "truth": "none",
    }
    assert set(changes) == {f.name for f in fields(RunOptions) if about(f) and about(f).recorded_as}
    for name, value in changes.items():
        with pytest.raises(ConfigError, match=r"a run of something else: options\."):
            run(photos, tiny_bundle, tmp_path / "out", replace(options, **{name: value}))
    names = listed.read_text().splitlines()
    listed.write_text("\n".join([*names[1:], "new.jpg"]))  # a list may change, as a folder may
    call = run(photos, tiny_bundle, tmp_path / "out", options).summary["this_call"]
    assert (call["rows"], call["added"], call["gone"]) == (1, 1, 1)


def test_options_travel_to_other_processes() -> None:
    for kind in OPTIONS.values():
        assert pickle.loads(pickle.dumps(kind())) == kind()


def test_options_import_nothing_heavy() -> None:
    names = ", ".join(f"purifyctl.config.{name}" for name in ("run", "evaluate", "attack", "bench", "build"))
    code = (
        f"import sys, {names}, purifyctl.config.train; print({{'torch', 'numpy', 'pyarrow', 'PIL'}} & {{*sys.modules}})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_commands_that_need_a_classifier_refuse_none() -> None:
    with pytest.raises(ConfigError, match="An attack needs a classifier"):
        AttackOptions(classifier="none")
    with pytest.raises(ConfigError, match="An evaluation needs a classifier"):
        EvaluateOptions(classifier="none")
    with pytest.raises(ConfigError, match="A training needs a classifier"):
        TrainOptions(classifier="none").config(Path(__file__).parents[1] / "train" / "smoke.toml")
