"""A training recipe with every term of the objective, which takes seconds; and helpers for the tests of trainings."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from purifyctl.checkpoint import load_purifier
from purifyctl.classifiers import Classifier, load_classifier
from purifyctl.config import ClassifierConfig, NetworkConfig, ObjectiveConfig, TrainConfig, TrainingAttack
from purifyctl.training.phases import PlannedPhase, plan_phases
from purifyctl.training.trainer import Trainer
from purifyctl.training.workers import Workers

ALONE = Workers(torch.device("cpu"))


def config(**changes: object) -> TrainConfig:
    """Every term of the objective, in seconds."""
    settings = {
        "network": NetworkConfig(kind="unet", width=4, depth=5),
        "classifiers": (ClassifierConfig("tests.tiny:classifier"),),
        "attacks": (
            TrainingAttack("fgsm", eps=(4 / 255, 8 / 255)),
            TrainingAttack("pgd", eps=(4 / 255, 8 / 255), steps=2),
        ),
        "objective": ObjectiveConfig(
            gan=1.0, l1=100.0, perceptual=1.0, classifier=1.0, agreement=0.5, discriminator_width=4
        ),
        "resize": 48,
        "image_size": 32,
        "batch_size": 2,
        "epochs": 3,
        "identity_share": 0.3,
        "ema": 0.9,
        "held_out": 0.2,
        **changes,
    }
    return TrainConfig(**settings)


def trainer(settings: TrainConfig, classifiers: Sequence[Classifier] | None = None) -> Trainer:
    """The trainer of a recipe that is one phase, of 10 steps."""
    phase = PlannedPhase(0, "train", settings, "last", begin=0, end=10, cosine_begin=0, cosine_end=10)
    return Trainer(phase, classifiers or [load_classifier(c.name) for c in settings.classifiers], ALONE)


def trainers(settings: TrainConfig, steps_per_epoch: int, classifiers: Sequence[Classifier] = ()) -> list[Trainer]:
    """The trainer of each phase; each begins with new weights."""
    return [
        Trainer(
            phase,
            classifiers or [load_classifier(c.name) for c in phase.config.classifiers],
            ALONE,
            first_step=phase.begin,
        )
        for phase in plan_phases(settings, steps_per_epoch)
    ]


def attacked_by(made: Trainer, x: torch.Tensor, step: int, places: tuple[int, ...] = ()) -> torch.Tensor:
    """`x` attacked as the first classifier's images are at this step."""
    y = torch.zeros(len(x), dtype=torch.int64)
    return made.attack(x, y, 0, made.sample(len(x), np.random.default_rng(step), step), places)


def tiny_images(n: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 32, 32), generator=torch.Generator().manual_seed(0)) / 255


def losses(run: Path) -> list[dict]:
    """The lines of a run's log."""
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def assert_same_weights(one: Path, other: Path) -> None:
    """Two checkpoints hold the same numbers, bit for bit."""
    first, second = load_purifier(one).net.state_dict(), load_purifier(other).net.state_dict()
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
