"""The options of `purifyctl attack`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from purifyctl.config.attack_config import AttackConfig
from purifyctl.config.attacks import WITH_RESTARTS, AttackKind
from purifyctl.config.classifier import ClassifierConfig
from purifyctl.config.devices import DeviceOption
from purifyctl.config.options import option
from purifyctl.config.picture_options import PictureOptions
from purifyctl.config.truth import PREDICTED, JudgedOptions
from purifyctl.config.values import EXCLUDE_HELP, INCLUDE_HELP, SIZE_HELP, EpsSpace, Size, parse_size
from purifyctl.errors import ConfigError

OnExisting = Literal["error", "overwrite"]


@dataclass(frozen=True)
class AttackOptions(JudgedOptions, DeviceOption, PictureOptions):
    """The options of `purifyctl attack`, beyond source and output."""

    kind: AttackKind = option("pgd", flag="--attack", help="What to attack with.")
    eps: str = option("8/255", help="Budget: no pixel value changes by more than this.")
    eps_space: EpsSpace = option(
        "unit", help="Range that --eps is given in: [0, 1], [-1, 1], or mean/std units of the attacked classifier."
    )
    steps: int = option(0, minimum=0, help="Number of steps or queries. 0: the attack's usual number.")
    restarts: int = option(
        1, minimum=1, help=f"Number of random starts, for {WITH_RESTARTS}. The most successful one counts."
    )
    eot: int = option(1, minimum=1, help="Passes that each gradient is averaged over, for networks that are random.")
    target: str = option("", help="Class to reach: least-likely, random, an index, WordNet id or name. Default: none.")
    surrogate: str = option("", help="Attack this classifier, and judge on --classifier. Default: the same one.")
    surrogate_weights: str = option("", help="Its weights, as for --weights.")
    through_purifier: Path | None = option(
        None, help="Checkpoint of a purifier to attack together with the classifier."
    )
    image_size: Size = option(
        0, flag="--size", former="--image-size", metavar="auto|original|N", parse=parse_size, help=SIZE_HELP
    )
    batch_size: int = option(16, minimum=1, help="Number of images attacked together.")
    seed: int = option(0, minimum=0, help="The same seed makes the same images.")
    include: tuple[str, ...] = option((), help=INCLUDE_HELP)
    exclude: tuple[str, ...] = option((), help=EXCLUDE_HELP)
    on_existing: OnExisting = option("error", help="What to do when OUT holds an earlier attack.")

    def __post_init__(self) -> None:
        if self.surrogate_weights and not self.surrogate:
            raise ConfigError(
                "--surrogate-weights belong to a classifier, and --surrogate names none.", hint="add --surrogate NAME"
            )
        super().__post_init__()
        _ = self.attack, self.judged, self.attacked  # making them refuses what cannot work

    @property
    def attack(self) -> AttackConfig:
        """The attack, without its budget."""
        return AttackConfig(self.kind, self.steps, self.restarts, self.eot, targeted=bool(self.target))

    @property
    def judged(self) -> ClassifierConfig:
        """The classifier that says whether an attack succeeded."""
        self.check_named("An attack")
        return self.choice

    @property
    def truth_from(self) -> str:
        """`predicted`, `folders`, or a file's name."""
        return super().truth_from or PREDICTED

    @property
    def attacked(self) -> ClassifierConfig:
        """The classifier that the attack works on: the surrogate, or else the one that judges."""
        return ClassifierConfig(self.surrogate, self.surrogate_weights) if self.surrogate else self.judged
