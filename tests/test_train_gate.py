"""Training a gate, on tiny photographs and with a tiny classifier."""

import json
import os
import shutil
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from purifyctl.config import GateConfig, from_dict, to_dict
from purifyctl.errors import ConfigError, TrainingError
from purifyctl.gate import load_gate
from purifyctl.training.gate import train_gate
from tests import tiny
from tests.commands import purifyctl

ROOT = Path(__file__).parents[1]
RECIPE: dict[str, Any] = {
    "classifiers": [{"name": "tests.tiny:classifier"}],
    "attacks": [{"kind": "fgsm", "eps": ["8/255", "16/255"]}, {"kind": "fgsm", "eps": ["12/255", "12/255"]}],
    "width": 6,
    "resize": 48,
    "largest": 48,
    "image_size": 32,
    "validation_sizes": [48, 32],
    "epochs": 2,
    "batch_size": 5,
    "held_out": 0.4,
}
CONFIG = from_dict(GateConfig, RECIPE)


@pytest.fixture(scope="module")
def thirty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty photographs. Read only."""
    return tiny.photographs(tmp_path_factory.mktemp("thirty"), 30)


@pytest.fixture(scope="module")
def trained(thirty: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one call leaves. Read only."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    result = train_gate(CONFIG, thirty, folder)
    assert not result.interrupted
    assert result.checkpoint == folder / "gate.safetensors"
    assert json.loads((folder / "figures.json").read_text()) == result.figures
    return folder


def tensors(run: Path) -> dict[str, Tensor]:
    return load_gate(run).net.state_dict()


def same(one: Path, other: Path) -> bool:
    return all(torch.equal(*pair) for pair in zip(tensors(one).values(), tensors(other).values(), strict=True))


def test_a_trained_gate_is_on_disk_with_its_thresholds_its_recipe_and_what_it_finds(trained: Path) -> None:
    gate = load_gate(trained)
    figures = json.loads((trained / "figures.json").read_text())
    assert set(gate.thresholds) == {"0.1"}  # 12 held-out photographs are too few for 1 in 20
    assert gate.thresholds == figures["thresholds"]
    assert gate.about["recipe"] == json.loads(json.dumps(to_dict(CONFIG)))
    assert gate.about["held_out"] == figures
    assert (figures["n_clean"], figures["sizes"]) == (12, [48, 32])
    attacked = figures["attacked"]["PGD-10 8/255"]
    assert attacked["n"] > 8
    assert attacked["auroc"] > 0.9
    assert attacked["tpr"]["0.1"] > 0.5
    assert np.load(trained / "attacked" / "made.npy").sum() >= 15  # of 18: the last few do not fill a batch


def test_an_attack_that_changed_no_prediction_has_no_figures_and_the_file_is_still_json(trained: Path) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    figures = json.loads((trained / "figures.json").read_text(), parse_constant=refuse)
    nothing = [found for found in figures["attacked"].values() if not found["n"]]
    assert nothing
    for found in nothing:
        assert found == {"n": 0, "auroc": None, "tpr": {"0.1": None}}


def test_a_stopped_training_of_a_gate_is_resumed_and_ends_as_if_it_had_not_been_stopped(
    thirty: Path, trained: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    made = run / "attacked" / "made.npy"

    def stop_once_crops_are_there() -> None:
        while not ((run / "attacked" / "cache.json").exists() and np.load(made).any()):
            time.sleep(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    watcher = threading.Thread(target=stop_once_crops_are_there)
    watcher.start()
    stopped = train_gate(replace(CONFIG, epochs=1000), thirty, run)  # more than there is time for
    watcher.join()
    assert stopped.interrupted
    assert not stopped.checkpoint.exists()
    train_gate(CONFIG, thirty, run)
    assert same(run, trained)  # the same seed gives the same gate, whether its crops were there or not
    assert (run / "attacked" / "attacked.npy").read_bytes() == (trained / "attacked" / "attacked.npy").read_bytes()
    train_gate(replace(CONFIG, seed=1), thirty, tmp_path / "other")
    assert not same(tmp_path / "other", trained)


def test_attacked_crops_that_are_there_are_used_and_only_the_others_made(
    thirty: Path, trained: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    files = run / "attacked" / "attacked.npy", run / "attacked" / "made.npy"
    images, made = (np.lib.format.open_memmap(file, "r+") for file in files)
    before = images.copy()
    kept, lost = np.flatnonzero(made)[:2]
    images[kept], images[lost], made[lost] = 77, 0, False
    images.flush(), made.flush()
    del images, made
    train_gate(CONFIG, thirty, run)
    images, made = map(np.load, files)
    assert (images[kept] == 77).all()
    assert made[lost]
    assert (images[lost] == before[lost]).all()


def test_crops_of_another_recipe_or_of_other_photographs_are_not_taken_for_ones_own(
    thirty: Path, trained: Path, tmp_path: Path
) -> None:
    before = (trained / "gate.safetensors").read_bytes()
    others = tmp_path / "others"
    shutil.copytree(thirty, others)
    (others / "new.jpg").write_bytes(tiny.encoded(tiny.photograph(seed=99), "JPEG"))
    for config, folder in ((replace(CONFIG, image_size=34), thirty), (CONFIG, others)):
        with pytest.raises(TrainingError, match="another recipe or to other photographs"):
            train_gate(config, folder, trained)
    assert (trained / "gate.safetensors").read_bytes() == before


@pytest.mark.parametrize("held_out", [0.1, 0.99])
def test_too_few_photographs_to_hold_out_or_to_train_on_are_refused_before_anything_is_written(
    held_out: float, thirty: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="30 photographs, too few to train on and hold some out"):
        train_gate(replace(CONFIG, held_out=held_out), thirty, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def constant() -> torch.nn.Module:
    """A classifier that says the same of everything."""
    net = tiny.classifier()
    torch.nn.init.zeros_(net[-1].weight)
    return net


def test_a_gate_is_not_calibrated_on_attacks_none_of_which_succeeded(thirty: Path, tmp_path: Path) -> None:
    recipe = {**RECIPE, "epochs": 1, "classifiers": [{"name": "tests.test_train_gate:constant"}]}
    with pytest.raises(TrainingError, match="No attack changed a prediction"):
        train_gate(from_dict(GateConfig, recipe), thirty, tmp_path / "run")
    assert not (tmp_path / "run" / "gate.safetensors").exists()


@pytest.mark.slow
def test_train_gate_on_the_command_line_says_what_the_gate_finds(thirty: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "tiny.toml"
    tables = "".join(f"[[attacks]]\nkind = '{a['kind']}'\neps = {a['eps']}\n" for a in RECIPE["attacks"])
    keys = "".join(f"{key} = {value}\n" for key, value in RECIPE.items() if key not in ("attacks", "classifiers"))
    recipe.write_text(f"{keys}\n[[classifiers]]\nname = 'tests.tiny:classifier'\n{tables}")
    words = ["train-gate", recipe, "--photos", thirty, "--out", tmp_path / "run", "--json"]
    done = purifyctl(*words)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["checkpoint"] == str(tmp_path / "run" / "gate.safetensors")
    assert answer["held_out"]["thresholds"] == load_gate(tmp_path / "run").thresholds
    assert "FGSM 4/255: it changed no prediction" in done.stderr
    assert "PGD-10 8/255: AUROC" in done.stderr
