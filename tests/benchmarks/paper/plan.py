"""What is trained and measured."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from purifyctl.config import AttackConfig, ClassifierConfig, TrainConfig, TrainingAttack
from purifyctl.config.recipes import find_recipe
from purifyctl.config.train import TrainOptions
from purifyctl.config.values import grey_levels

Method = Literal["pix2pix", "paper", "ours", "ours-shipped"]
METHODS: tuple[Method, ...] = get_args(Method)
RECIPES: dict[Method, str] = {
    "pix2pix": "paper-small",
    "paper": "paper-small",
    "ours": "fixed-budget",
    "ours-shipped": "fixed-budget",
}
DONE = "done.json"  # in the folder of a training that came to its end
NONE, SHIPPED = "none", "shipped"  # no purifier; the one that comes with purifyctl, without any training


@dataclass(frozen=True)
class Training:
    """One classifier, one attack, one budget, one method."""

    classifier: ClassifierConfig
    attack: AttackConfig
    eps: float  # L-infinity in [0, 1]
    method: Method

    @property
    def name(self) -> str:
        """Names its folder: `mobilenet_v2-fgsm-38-paper`."""
        return f"{short_name(self.classifier)}-{condition(self.attack, self.eps)}-{self.method}"


@dataclass(frozen=True)
class Plan:
    """What the command line says."""

    photos: Path
    val: Path
    out: Path
    minutes: float  # of one core, for each training
    jobs: int  # trainings at the same time, each with a core
    n: int  # photographs to measure on
    budgets: tuple[float, ...]  # readings of the paper's 0.3, in [0, 1]; the first one is Table 5's and the figures'
    attacks: tuple[AttackConfig, ...]  # of the trainings for the paper's own classifier
    methods: tuple[Method, ...]
    classifier: ClassifierConfig  # the paper's: MobileNetV2
    others: tuple[ClassifierConfig, ...]  # Table 5's
    perceptual_weights: str | None
    crop: int | None  # pixels; None: the recipes'
    batch: int | None  # photographs per step; None: the recipes'

    @property
    def trainings(self) -> tuple[Training, ...]:
        """In the order in which they are begun: what the paper's Tables 2 to 4 need comes first."""
        own = [
            Training(self.classifier, attack, eps, method)
            for attack in self.attacks
            for eps in self.budgets
            for method in self.methods
        ]
        table_5 = [
            Training(other, AttackConfig("pgd", steps=10), self.budgets[0], method)
            for other in self.others
            for method in self.methods
            if method != "pix2pix"  # it is not in the paper's Table 5
        ]
        return (*own, *table_5)

    def folder(self, training: Training) -> Path:
        """The run folder of a training."""
        return self.out / "trainings" / training.name

    @property
    def trained(self) -> tuple[Training, ...]:
        """Those that came to their end."""
        return tuple(training for training in self.trainings if (self.folder(training) / DONE).exists())

    def recipe(self, training: Training) -> TrainConfig:
        """The recipe of a training."""
        perceptual = training.method == "paper"
        options = TrainOptions(
            photos=self.photos,
            minutes=self.minutes,
            perceptual_weights=self.perceptual_weights if perceptual else None,
        )
        config = options.config(find_recipe(RECIPES[training.method], "train"))
        attack = training.attack
        if not perceptual:
            config = replace(config, objective=replace(config.objective, perceptual=0.0))
        return replace(
            config,
            classifiers=(training.classifier,),
            attacks=(TrainingAttack(attack.kind, steps=attack.steps, eps=(training.eps, training.eps)),),
            validation_attacks=(attack,),
            validation_eps=(training.eps,),
            start=SHIPPED if training.method == "ours-shipped" else "",
            image_size=self.crop or config.image_size,
            batch_size=self.batch or config.batch_size,
        )


def short_name(classifier: ClassifierConfig) -> str:
    """A name for files: `tf_mobilenet_v1_width_075`."""
    return classifier.name.replace(":", "_").replace(".", "_").replace("/", "_")


def condition(attack: AttackConfig, eps: float) -> str:
    """Names an attack at a budget in whole grey levels: `pgd-10-38`."""
    steps = f"-{attack.steps}" if attack.steps else ""
    return f"{attack.kind}{steps}-{grey_levels(eps)}"
