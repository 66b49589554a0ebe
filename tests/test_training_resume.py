"""A training that is stopped or killed is resumed as if it had not been stopped."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from purifyctl.checkpoint import load_purifier
from purifyctl.config import TrainingAttack
from purifyctl.errors import ConfigError, TrainingError
from purifyctl.training import run_folder, train
from tests.tiny_training import assert_same_weights, config, losses

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_training_that_was_stopped_ends_like_one_that_was_not(photos: Path, tmp_path: Path) -> None:
    train(config(), photos, tmp_path / "whole")
    for stop in (5, 7, None):
        train(config(), photos, tmp_path / "stopped", max_steps=stop)
    assert_same_weights(*(tmp_path / name / "last.safetensors" for name in ("whole", "stopped")))
    logged = {line["step"]: line for line in losses(tmp_path / "stopped") if "generator" in line}
    for line in losses(tmp_path / "whole"):
        if "generator" in line:
            assert logged[line["step"]] == line


@pytest.mark.slow
@pytest.mark.parametrize("cached", [0, 1])
def test_a_training_that_was_killed_is_resumed_as_if_it_had_not_been_killed(
    photos: Path, tmp_path: Path, cached: int
) -> None:
    settings = config(cached_attacks=cached, attacks=(TrainingAttack("pgd", eps=(4 / 255, 8 / 255), steps=2),))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(settings, photos, whole)
    train(settings, photos, killed, max_steps=5)
    saved = (killed / "state.pt").read_bytes()
    train(settings, photos, killed, max_steps=10)  # steps 6 to 10 are done, logged, cached, and then lost
    (killed / "state.pt").write_bytes(saved)
    with (killed / "log.jsonl").open("a") as log:
        log.write('{"step": 11, "gener')
    train(settings, photos, killed)
    for name in ("last", "purifier"):
        one, two = (run / f"{name}.safetensors" for run in (whole, killed))
        assert load_purifier(one).about["step"] == load_purifier(two).about["step"]
        assert_same_weights(one, two)
    logged = [line for line in losses(killed) if "held_out" in line]
    assert [line for line in logged if line["step"] % 4 == 0] == [line for line in losses(whole) if "held_out" in line]


def test_a_state_whose_networks_do_not_fit_is_refused_by_name(photos: Path, tmp_path: Path) -> None:
    train(config(), photos, tmp_path / "run", max_steps=2)
    saved = torch.load(tmp_path / "run" / "state.pt", weights_only=True)
    saved["networks"]["generator"].popitem()
    torch.save(saved, tmp_path / "run" / "state.pt")
    with pytest.raises(TrainingError, match="cannot be resumed"):
        train(config(), photos, tmp_path / "run")


@pytest.mark.slow
def test_a_finished_training_is_not_continued(photos: Path, tmp_path: Path) -> None:
    settings = config(learning_rate=1e-12, epochs=20, patience=1, ema=0.0)
    first = train(settings, photos, tmp_path / "run")
    again = train(settings, photos, tmp_path / "run")
    assert again.steps == first.steps == 8
    assert again.held_out == first.held_out


@pytest.mark.slow
def test_a_stop_between_validations_changes_neither_the_best_purifier_nor_the_patience(
    photos: Path, tmp_path: Path
) -> None:
    settings = config(learning_rate=1e-12, epochs=6, patience=3, ema=0.0)
    for stop in (2, 3, 5, 6, 7, None):
        result = train(settings, photos, tmp_path / "run", max_steps=stop)
    assert result.steps == 16  # the first validation is the best; three more are no better
    assert result.held_out["step"] == 4


@pytest.mark.slow
def test_a_purifier_that_a_stop_shows_to_be_better_is_not_kept_between_validations(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.9, 0.4])  # of the first validation, of the stop between them, of the second one
    monkeypatch.setattr(run_folder, "score", lambda figures: memory.setdefault(figures["step"], next(scores, 0.0)))
    memory: dict[int, float] = {}
    settings = config(epochs=2, ema=0.0)
    train(settings, photos, tmp_path / "run", max_steps=6)
    result = train(settings, photos, tmp_path / "run")
    assert result.held_out["step"] == load_purifier(tmp_path / "run").about["step"] == 4


@pytest.mark.slow
def test_a_training_is_resumed_after_recipes_have_got_new_keys_and_names_those_that_differ(
    photos: Path, tmp_path: Path
) -> None:
    train(config(), photos, tmp_path / "run", max_steps=2)
    file = tmp_path / "run" / "training.json"
    begun = json.loads(file.read_text())
    del begun["recipe"]["beta2"]  # as an older version left it
    file.write_text(json.dumps(begun))
    assert train(config(), photos, tmp_path / "run", max_steps=3).steps == 3
    with pytest.raises(ConfigError, match=r"another recipe: seed was 0, is 1\."):
        train(config(seed=1), photos, tmp_path / "run")
    begun["recipe"]["denoise_epochs"] = 0  # a key that was replaced
    file.write_text(json.dumps(begun))
    with pytest.raises(ConfigError, match="training of another version: unknown key denoise_epochs"):
        train(config(), photos, tmp_path / "run")


@pytest.mark.slow
def test_a_call_that_has_nothing_to_do_still_returns_the_figures(photos: Path, tmp_path: Path) -> None:
    first = train(config(), photos, tmp_path / "run", max_steps=2)
    again = train(config(), photos, tmp_path / "run", max_steps=2)
    assert again.held_out == first.held_out != {}


@pytest.mark.slow
def test_a_training_on_cached_attacks_resumes_like_any_other(photos: Path, tmp_path: Path) -> None:
    settings = config(cached_attacks=1)
    train(settings, photos, tmp_path / "whole")
    for stop in (6, None):
        train(settings, photos, tmp_path / "stopped", max_steps=stop)
    assert_same_weights(*(tmp_path / name / "last.safetensors" for name in ("whole", "stopped")))


@pytest.mark.slow
def test_ctrl_c_saves_the_step_and_exits_with_130(photos: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        "resize = 48\nimage_size = 32\nbatch_size = 2\nepochs = 100000\nvalidate_every = 100000\n"
        '[network]\nkind = "residual"\nwidth = 8\ndepth = 2\n[[classifiers]]\nname = "tests.tiny:classifier"\n'
        '[[attacks]]\nkind = "fgsm"\neps = ["4/255", "8/255"]\n'
    )
    words = ("train", recipe, "--photos", photos, "--out", tmp_path / "run", "--max-steps", 100_000)
    process = subprocess.Popen(
        [sys.executable, "-m", "purifyctl", *map(str, words)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    saved = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"]
    assert saved == load_purifier(tmp_path / "run").about["step"] >= 10
