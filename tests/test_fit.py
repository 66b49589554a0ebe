"""`train fit`: a purifier for any classifier, in the minutes that it is given, by as many processes as pay."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from purifyctl.checkpoint import load_purifier
from purifyctl.classifiers import Classifier, own_square
from purifyctl.config import AttackConfig, ClassifierConfig, ObjectiveConfig, Phase, TrainConfig
from purifyctl.config.recipes import built_in
from purifyctl.config.train import TrainOptions
from purifyctl.errors import ConfigError, TrainingError
from purifyctl.labels import Labels
from purifyctl.report.training import write_training_report
from purifyctl.training import loop, prepare, train
from purifyctl.training.classifier_view import classifier_view
from purifyctl.training.phases import plan_phases
from purifyctl.training.prepare import in_square_of
from purifyctl.training.validation import comparison
from purifyctl.training.workers import Workers, processes_that_pay, together
from tests import tiny
from tests.tiny_training import config, losses

ROOT = Path(__file__).parents[1]
FIT = built_in("train")["fit"]


def at_64() -> Classifier:
    """A classifier that takes the middle 64 of 73 pixels. Usable as `--classifier tests.test_fit:at_64`."""
    return Classifier(tiny.classifier(), name="at_64", labels=Labels(()), input_size=(64, 64), crop_pct=0.875)


def one_class() -> nn.Module:
    """A classifier that says the same of every picture."""
    return nn.Sequential(tiny.classifier(), _First())


class _First(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 0 + torch.arange(10.0)


def timed(**changes: object) -> TrainConfig:
    """A recipe of 1.2 seconds in two phases, for squares of 72 pixels."""
    two = (Phase("near", 3), Phase("finish", 2, continues_schedule=True, image_size=64))
    settings = {
        "network": tiny.NETWORK,
        "classifiers": (ClassifierConfig("tests.test_fit:at_64"),),
        "objective": ObjectiveConfig(l1=1.0, agreement=1.0),
        "classifier_sees": "in_use",
        "resize": 0,
        "epochs": 1,
        "minutes": 0.02,
        "phases": two,
        "schedule": "cosine",
        "validation_attacks": (AttackConfig("pgd", steps=2),),
        "validation_eps": (8 / 255,),
        "ema": 0.0,
        **changes,
    }
    return config(**settings)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    """Each step takes 0.02 seconds, however busy the machine is."""
    ticks = itertools.count(step=0.02)
    for module in (loop, prepare):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=lambda: next(ticks)))


def test_phases_share_the_minutes_and_the_learning_rate_falls_to_0_at_their_end() -> None:
    near, finish = plan_phases(timed(minutes=10.0, learning_rate=1e-3), steps_per_epoch=7)
    assert (near.begin, near.end, finish.begin, finish.end) == (0, 360, 360, 600)
    assert near.learning_rate(0) == 1e-3
    assert near.learning_rate(300) == finish.learning_rate(300) == pytest.approx(0.5e-3)
    assert finish.learning_rate(599.9) < 1e-9
    assert finish.learning_rate(700) == 0  # the last step ends after the time
    for refused in ({"patience": 1}, {"growth_epochs": 1}, {"minutes": -1.0}):
        with pytest.raises(ConfigError):
            timed(**refused)


@pytest.mark.slow
def test_a_training_with_minutes_ends_in_time_and_is_measured_before_and_after(
    photos: Path, tmp_path: Path, clock: None
) -> None:
    settings = timed(start=str(tiny.checkpoint(tmp_path / "start")))
    result = train(settings, photos, tmp_path / "run")
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert state["trained_s"] == pytest.approx(1.2, abs=0.03)
    assert result.steps == state["step"] == pytest.approx(60, abs=1)
    logged = [line for line in losses(tmp_path / "run") if "generator" in line]
    assert {line["phase"] for line in logged} == {"near", "finish"}
    assert [line["progress"] for line in logged] == sorted(line["progress"] for line in logged)
    assert write_training_report(tmp_path / "run", tmp_path / "page.html")["finished"]
    validated = [line["phase"] for line in losses(tmp_path / "run") if "held_out" in line]
    assert validated == ["before", "near", "finish"]
    assert set(result.before["attacked"]) == set(result.held_out["attacked"]) == {"PGD-2 8/255"}
    columns, rows = comparison(result.before, result.held_out)
    assert [len(row) for row in rows] == [len(columns)] * 3 == [4] * 3
    assert result.held_out["psnr"] > result.before["psnr"]  # it began with a purifier of random weights
    about = load_purifier(tmp_path / "run").about
    assert set(about["fitted_to"]) == {"tests.test_fit:at_64"}
    assert about["recipe"]["minutes"] == 0.02
    assert "| before | after |" in (tmp_path / "run" / "card.md").read_text()
    assert train(settings, photos, tmp_path / "run").steps == result.steps  # finished


@pytest.mark.slow
def test_a_training_with_minutes_continues_from_the_progress_that_it_had(
    photos: Path, tmp_path: Path, clock: None
) -> None:
    train(timed(precision="auto"), photos, tmp_path / "run", max_steps=5)
    stopped = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    train(timed(precision="auto"), photos, tmp_path / "run", max_steps=8)
    resumed = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    assert stopped["trained_s"] == pytest.approx(0.1)
    assert resumed["trained_s"] == pytest.approx(0.16)  # the time between the two calls does not count
    assert stopped["precision"] == resumed["precision"]  # measured once
    with pytest.raises(ConfigError, match=r"minutes was 0\.02, is 0\.03"):
        train(timed(precision="auto", minutes=0.03), photos, tmp_path / "run")


def test_what_cannot_be_fitted_is_refused_with_what_is_needed(photos: Path, tmp_path: Path, clock: None) -> None:
    out = tmp_path / "run"
    with pytest.raises(ConfigError, match=r"10 photographs.*at least 64 are needed"):
        train(timed(least_photos=64), photos, out)
    with pytest.raises(ConfigError, match=r"minutes hold about .* steps here; at least 20 are needed") as caught:
        train(timed(minutes=1e-5), photos, out)
    assert "--minutes" in caught.value.hint
    with pytest.raises(ConfigError, match="names no classifier") as caught:
        train(timed(classifiers=()), photos, out)
    assert "--classifier" in caught.value.hint
    many = tiny.photographs(tmp_path / "many", 20)
    same = timed(classifiers=(ClassifierConfig("tests.test_fit:one_class"),), held_out=0.9, batch_size=1)
    with pytest.raises(ConfigError, match=r"says 'class 9' of all 18 held-out photographs"):
        train(same, many, out)


def test_options_put_the_users_classifier_and_minutes_into_the_recipe(tmp_path: Path) -> None:
    options = TrainOptions(classifier="mobilenet_v2", weights=("mobilenet_v2=w.pth",), minutes=5.0, photos=tmp_path)
    made = options.config(FIT)
    assert made.classifiers == (ClassifierConfig("mobilenet_v2", "w.pth"),)
    assert (made.minutes, made.resize, made.start) == (5.0, 0, "shipped")
    assert TrainOptions(engine_size=224).config(FIT).resize == 224
    small = TrainOptions(engine_size=96).config(FIT)
    assert (small.image_size, small.phases[1].image_size) == (96, 96)
    assert TrainOptions(classifier="x:y").config(built_in("train")["shipped"]).phases[0].classifiers == ()
    with pytest.raises(ConfigError, match="--engine-size is for recipes with resize = 0"):
        TrainOptions(engine_size=224).config(built_in("train")["shipped"])
    with pytest.raises(ConfigError, match="must be positive"):
        TrainOptions(minutes=0.0).config(FIT)


@pytest.mark.parametrize(
    ("input_size", "crop", "multiple", "side"),
    [
        (224, 0.875, 16, 256),
        (240, 0.882, 16, 272),
        (260, 0.89, 16, 288),
        (192, 0.875, 16, 224),
        (299, 0.874, 16, 336),
        (384, 1.0, 16, 384),
        (224, 224 / 232, 16, 240),
        (32, 0.875, 16, 32),
        (224, 0.875, 256, 256),
    ],
)
def test_in_its_own_square_a_classifiers_crop_has_exactly_the_size_of_its_input(
    input_size: int, crop: float, multiple: int, side: int
) -> None:
    made = Classifier(nn.Identity(), name="any", labels=Labels(()), input_size=(input_size, input_size), crop_pct=crop)
    assert own_square(made, multiple) == side
    assert made.crop_of(side, side) == (input_size, input_size)
    assert made.scale_in(side) == 1
    picture = torch.rand(1, 3, side, side)
    top = (side - input_size) // 2
    assert torch.equal(made(picture), picture[..., top : top + input_size, top : top + input_size])


def test_where_an_engine_resizes_a_training_shows_crops_at_that_scale() -> None:
    seen: list[int] = []
    classifier = at_64()
    classifier.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
    for resize, expected in ((72, 32), (128, 18), (36, 64)):
        classifier_view(classifier, timed(resize=resize, phases=()))(torch.rand(1, 3, 32, 32))
        assert seen.pop() == pytest.approx(expected, abs=1)


def test_a_classifier_that_takes_one_size_only_is_trained_with_crops_of_that_size_or_with_whole_squares() -> None:
    seen: list[int] = []
    fixed = at_64()
    fixed.fixed = True
    fixed.net.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[-1]))
    two = timed().phases
    for asked, phases, crop in ((0, (), 64), (0, two, 64), (96, (), 96)):
        made = in_square_of(fixed, timed(resize=asked, phases=phases))
        assert {made.image_size, *(phase.image_size for phase in made.phases)} == {crop}
        classifier_view(fixed, made)(torch.rand(1, 3, crop, crop))
        assert seen.pop() == 64  # at the scale of use: nothing enlarges a crop


def test_as_many_processes_train_as_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6))
    fit = TrainOptions(classifier="x:y").config(FIT)
    assert processes_that_pay(fit) == 4  # a divisor of 16
    assert processes_that_pay(replace(fit, batch_size=5)) == 1
    assert processes_that_pay(TrainOptions().config(built_in("train")["pix2pix-small"])) == 1  # batch norms
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert processes_that_pay(fit) == 1
    with pytest.raises(ConfigError, match="torchrun has started the processes"):
        together(2, lambda _: None)


def sums(of: Workers) -> float:
    """Something that takes both processes."""
    return of.largest(of.rank)


def fails(of: Workers) -> float:
    """The second process fails while the first one waits for it."""
    if of.rank:
        raise TrainingError("it has no photographs.")
    return of.largest(0)


@pytest.mark.slow
def test_processes_work_together_and_the_failure_of_one_is_said_by_name() -> None:
    before = torch.get_num_threads()
    with pytest.raises(TrainingError, match=r"Another process of this training failed: .*it has no photographs"):
        together(2, fails)
    assert together(2, sums) == 1  # nothing of the failure is left
    assert torch.get_num_threads() == before


@pytest.mark.slow
def test_two_processes_stop_together_after_ctrl_c_and_the_same_command_continues(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    photos = tiny.photographs(tmp_path / "photos", 20)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        'classifiers = []\nclassifier_sees = "in_use"\nresize = 0\nimage_size = 32\nbatch_size = 4\nminutes = 0.2\n'
        'precision = "auto"\n[network]\nkind = "residual"\nwidth = 8\ndepth = 2\n'
        '[[attacks]]\nkind = "fgsm"\neps = ["4/255", "8/255"]\n'
    )
    run = tmp_path / "run"
    words = ["train", recipe, "--classifier", "tests.test_fit:at_64", "--photos", photos, "--out", run]
    command = [sys.executable, "-m", "purifyctl", *map(str, words), "--processes", "2", "--json"]

    def start() -> subprocess.Popen[str]:
        started = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        request.addfinalizer(started.kill)  # if the test fails
        return started

    process = start()
    log = run / "log.jsonl"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to every process
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert stderr.count("Interrupted") == 1
    stopped = torch.load(run / "state.pt", weights_only=True)
    assert 0 < stopped["trained_s"] < 12
    process = start()
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    assert f"from step {stopped['step']}, to minute 0.2" in stderr
    assert json.loads(stdout)["steps"] == load_purifier(run / "last.safetensors").about["step"] > stopped["step"]
