import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from purifyctl.checkpoint import load_purifier
from purifyctl.config import ClassifierConfig, NetworkConfig, ObjectiveConfig, TrainConfig, TrainingAttack, read_recipe
from purifyctl.errors import ConfigError, TrainingError
from purifyctl.images import list_images
from purifyctl.photographs import TrainingBatches, split
from purifyctl.training import Trainer, train, train_recipe

ROOT = Path(__file__).parents[1]


def config(**changes: object) -> TrainConfig:
    """Every term of the objective, in seconds."""
    settings = {
        "network": NetworkConfig(kind="unet", width=4, depth=5),
        "classifier": ClassifierConfig("tests.tiny:classifier"),
        "attacks": (
            TrainingAttack("fgsm", eps=(4 / 255, 8 / 255)),
            TrainingAttack("pgd", eps=(4 / 255, 8 / 255), steps=2),
        ),
        "objective": ObjectiveConfig(gan=1.0, l1=100.0, perceptual=1.0, classifier=1.0, discriminator_width=4),
        "resize": 48,
        "image_size": 32,
        "batch_size": 2,
        "epochs": 3,
        "identity_share": 0.3,
        "held_out": 0.2,
        **changes,
    }
    return TrainConfig(**settings)


def losses(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_training_writes_a_checkpoint_that_says_how_it_was_made(photos: Path, tmp_path: Path) -> None:
    result = train(config(), photos, tmp_path / "run")
    purifier = load_purifier(tmp_path / "run")
    assert result.steps == purifier.about["step"] == purifier.about["total_steps"] == 12
    assert purifier.about["recipe"]["objective"]["l1"] == 100
    assert purifier.about["held_out"] == result.held_out
    assert result.held_out["n"] == 2
    assert result.held_out["labels"] == "predicted when clean"
    last = [line for line in losses(tmp_path / "run") if "generator" in line][-1]
    assert set(last) == {"step", "generator", "l1", "gan", "perceptual", "classifier", "discriminator"}


def test_a_training_that_was_stopped_ends_like_one_that_was_not(photos: Path, tmp_path: Path) -> None:
    train(config(), photos, tmp_path / "whole")
    for stop in (5, 7, None):
        train(config(), photos, tmp_path / "stopped", max_steps=stop)
    whole, stopped = (load_purifier(tmp_path / name).net.state_dict() for name in ("whole", "stopped"))
    for name, value in whole.items():
        assert torch.equal(value, stopped[name]), name
    logged = {line["step"]: line for line in losses(tmp_path / "stopped") if "generator" in line}
    for line in losses(tmp_path / "whole"):
        if "generator" in line:
            assert logged[line["step"]] == line


def test_ctrl_c_saves_the_step_and_exits_with_130(photos: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        "resize = 48\nimage_size = 32\nbatch_size = 2\nepochs = 100000\nvalidate_every = 100000\n"
        '[network]\nkind = "residual"\nwidth = 8\ndepth = 2\n[classifier]\nname = "tests.tiny:classifier"\n'
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


def test_a_run_folder_goes_on_only_with_its_own_recipe_and_photographs(photos: Path, tmp_path: Path) -> None:
    train(config(), photos, tmp_path / "run", max_steps=1)
    with pytest.raises(ConfigError, match="another recipe"):
        train(config(learning_rate=1e-3), photos, tmp_path / "run")
    shutil.copy(photos / "cats" / "1.jpg", photos / "cats" / "more.jpg")
    with pytest.raises(ConfigError, match="other photographs"):
        train(config(), photos, tmp_path / "run")


def test_held_out_photographs_stay_held_out_when_others_are_added(photos: Path) -> None:
    files = list_images(photos)
    training, held_out = split(files, 0.3, seed=0)
    assert len(held_out) == 3
    assert {*training, *held_out} == set(files)
    assert not set(training) & set(held_out)
    again = split(files[:-1], 0.3, seed=0)[1]
    assert len(set(again) & set(held_out)) >= 2


def test_the_loss_terms_are_weighted_as_the_recipe_says(photos: Path) -> None:
    settings = config(attacks=(TrainingAttack("fgsm", eps=(8 / 255, 8 / 255)),))
    from purifyctl.classifiers import load_classifier

    trainer = Trainer(settings, load_classifier("tests.tiny:classifier"), 10, torch.device("cpu"))
    found = trainer.step(torch.rand(2, 3, 32, 32), 0)
    expected = found["gan"] + 100 * found["l1"] + found["perceptual"] + found["classifier"]
    assert found["generator"] == pytest.approx(expected, rel=1e-5)


def test_the_identity_share_of_images_is_left_clean() -> None:
    from purifyctl.classifiers import load_classifier

    trainer = Trainer(config(identity_share=0.5), load_classifier("tests.tiny:classifier"), 10, torch.device("cpu"))
    x = torch.randint(0, 256, (8, 3, 32, 32)) / 255
    y = torch.zeros(8, dtype=torch.int64)
    shares = [(trainer._attacked(x, y, step) == x).flatten(1).all(dim=1).float().mean().item() for step in range(40)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.1)


def test_a_loss_that_is_no_number_stops_the_training_with_advice(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"loss became .* at step") as caught:
        train(config(learning_rate=1e30, epochs=20), photos, tmp_path / "run")
    assert "learning_rate" in caught.value.hint


def test_photographs_that_cannot_be_read_are_left_out(photos: Path, tmp_path: Path) -> None:
    (photos / "cats" / "bad.jpg").write_bytes(b"not a photograph")
    (photos / "notes.txt").write_text("nor this")
    files = list_images(photos)
    batches = TrainingBatches(files, batch_size=4, resize=48, crop=32, seed=0)
    stream = batches.from_step(0)
    for _ in range(6):
        assert next(stream).shape == (4, 3, 32, 32)
    stream.close()
    assert batches.unreadable == {"cats/bad.jpg", "notes.txt"}


def test_a_folder_without_photographs_cannot_be_trained_on(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.txt", "b.txt", "c.txt"):
        (folder / name).write_text("no photograph")
    with pytest.raises(TrainingError, match="could be read"):
        train(config(), folder, tmp_path / "run")


@pytest.mark.slow
def test_the_smoke_recipe_purifies_held_out_photographs_better_than_nothing(tmp_path: Path) -> None:
    result = train_recipe(read_recipe(ROOT / "train" / "smoke.toml", TrainConfig), tmp_path / "run")
    for name, figures in result.held_out["attacked"].items():
        assert figures["purified_top1"] > figures["attacked_top1"], name


def test_the_shipped_purifiers_recipe_is_the_one_in_the_folder() -> None:
    from purifyctl.checkpoint import shipped_checkpoint

    text = (ROOT / "train" / "fast.toml").read_text()
    made = load_purifier(shipped_checkpoint()).about["recipe"]
    for key in ("image_size", "epochs", "batch_size"):
        assert re.search(rf"^{key} = {made[key]}$", text, re.M)
