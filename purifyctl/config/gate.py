"""Recipes of `purifyctl train-gate`."""

from dataclasses import dataclass

from purifyctl.config.classifier import ClassifierConfig
from purifyctl.config.training import TrainingAttack
from purifyctl.config.values import require


@dataclass(frozen=True)
class GateConfig:
    """A recipe of `purifyctl train-gate`: everything that decides what gate it makes, except the photographs."""

    classifiers: tuple[ClassifierConfig, ...]  # each step attacks one of them
    attacks: tuple[TrainingAttack, ...]  # for each crop, one of them is sampled, and a budget; none through a purifier
    width: int = 24  # channels of the network's first layer
    resize: int = 320  # pixels; photographs are resized to squares of this side
    largest: int = 320  # pixels; random squares of image_size to this side are cut from them
    image_size: int = 160  # pixels; these squares are resized to this side, so that some are sharper than others
    batch_size: int = 16  # photographs per step; the network sees a clean and an attacked crop of each
    attack_epochs: int = 1  # crops of each photograph that are attacked; they are made once, and used again
    epochs: int = 20  # passes over the photographs
    learning_rate: float = 2e-3  # Adam, with a cosine schedule
    disturbed: float = 0.5  # share of the clean crops that are compressed as JPEG or made noisy
    held_out: float = 0.1  # share of the photographs that is used for thresholds and calibration, and never trained on
    validation_sizes: tuple[int, ...] = (256, 128)  # pixels; smaller images are sharper; the highest threshold counts
    seed: int = 0  # of everything that is sampled at random

    def __post_init__(self) -> None:
        require(len(self.attacks) > 0, "attacks: at least one attack is needed.")
        require(len(self.classifiers) > 0, "classifiers: at least one classifier is needed.")
        classifier = all(attack.through == "classifier" for attack in self.attacks)
        require(classifier, "attacks.through: a gate has no purifier to attack through.")
        require(
            32 <= self.image_size <= self.largest <= self.resize,
            f"image_size {self.image_size}, largest {self.largest} and resize {self.resize} must rise from 32 on.",
        )
        require(not any(size % 2 for size in (self.image_size, *self.validation_sizes)), "sizes must be even.")
        require(len(self.validation_sizes) > 0, "validation_sizes: at least one size is needed.")
        require(min(self.width, self.batch_size, self.attack_epochs, self.epochs) >= 1, "counts must be at least 1.")
        require(self.learning_rate > 0, "learning_rate must be positive.")
        require(0 <= self.disturbed <= 1, f"disturbed is {self.disturbed}; it must lie in [0, 1].")
        require(0 < self.held_out < 1, f"held_out is {self.held_out}; it must lie in (0, 1).")
        require(0 <= self.seed < 2**31, f"seed is {self.seed}; it must lie in 0 to 2147483647.")
