"""The options of `purifyctl evaluate`."""

import re
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from purifyctl.config.attack_config import AttackConfig
from purifyctl.config.attacks import ATTACKS
from purifyctl.config.classifier import ClassifierConfig
from purifyctl.config.devices import DeviceOption
from purifyctl.config.options import option
from purifyctl.config.picture_options import PictureOptions
from purifyctl.config.truth import FOLDERS, JudgedOptions
from purifyctl.config.values import (
    SIZE_HELP,
    EpsSpace,
    Size,
    parse_list,
    parse_percent,
    parse_size,
    parse_texts,
)
from purifyctl.errors import ConfigError

ThreatModel = Literal["clean", "gray_box", "transfer", "black_box", "adaptive"]
THREAT_MODELS: tuple[ThreatModel, ...] = typing.get_args(ThreatModel)

# Version 0.1.0 always wrote these into settings.json; see the same name in `config/run.py`.
ALWAYS_WRITTEN = ("expensive_limit", "image_size", "batch_size", "seed")


def parse_threat_models(text: str) -> tuple[ThreatModel, ...]:
    """Read `gray-box,adaptive`. An empty text gives an empty tuple.

    Raises
    ------
    ConfigError
        There is no such threat model.
    """
    return parse_list(text, {model.replace("_", "-"): model for model in THREAT_MODELS}, "rung")


def parse_attack(text: str) -> AttackConfig:
    """Read an attack as a flag names it: `KIND`, `KIND-STEPS` or `KIND-STEPSxRESTARTS`, such as `pgd-100x5`.

    Raises
    ------
    ConfigError
        There is no such attack, or it takes no such numbers.
    """
    found = re.fullmatch(r"(?P<kind>[a-z]+(?:-[a-z]+)*)(?:-(?P<steps>\d+))?(?:x(?P<restarts>\d+))?", text.lower())
    kinds = [attack.kind for attack in ATTACKS]
    if found is None or found["kind"] not in kinds:
        raise ConfigError(f"There is no attack {text!r}.", hint=f"attacks: {', '.join(kinds)}; with steps: pgd-100")
    return AttackConfig(found["kind"], steps=int(found["steps"] or 0), restarts=int(found["restarts"] or 1))


def parse_surrogate(text: str) -> tuple[str, str]:
    """Read `NAME` or `NAME=WEIGHTS`."""
    name, _, weights = text.partition("=")
    return name, weights


def parse_against(text: str) -> tuple[str, Path]:
    """Read `NAME=CHECKPOINT`. Raises ConfigError when one of them is missing."""
    name, _, file = text.partition("=")
    if not (name and file):
        raise ConfigError(f"--against {text}: a name or a file is missing.", hint="write NAME=CHECKPOINT")
    return name, Path(file)


@dataclass(frozen=True)
class EvaluateOptions(JudgedOptions, DeviceOption, PictureOptions):
    """The options of `purifyctl evaluate`, beyond photographs and output.

    To resume an evaluation, a call must repeat all of it.
    """

    checkpoint: Path | None = option(
        None,
        recorded_as="purifiers",
        help="purifier.safetensors or its run folder. Default: the one that ships for the classifier.",
    )
    surrogates: tuple[tuple[str, str], ...] = option(  # (name, weights)
        (),
        flag="--surrogate",
        metavar="NAME[=WEIGHTS]",
        parse_each=parse_surrogate,
        recorded_as="surrogates",
        help="Classifier to make transfer examples on; repeatable.",
    )
    gate: Path | None = option(  # Path("shipped"): the one that comes with purifyctl
        None,
        parse=Path,
        recorded_as="gate",
        help="Also measure the purifier behind this gate: a checkpoint, or [bold]shipped[/].",
    )
    gate_fpr: float | None = option(  # None: DEFAULT_GATE_FPR
        None,
        parse=parse_percent,
        recorded_as="gate",
        help="Share of clean images that the gate may flag by mistake, such as 5% or 0.05. Default: 1%.",
    )
    against: tuple[tuple[str, Path], ...] = option(  # (name, checkpoint)
        (),
        metavar="NAME=CHECKPOINT",
        parse_each=parse_against,
        recorded_as="purifiers",
        help="Another purifier to compare with; repeatable. Call the paper's baseline pix2pix.",
    )
    threat_models: tuple[ThreatModel, ...] = option(
        (),
        flag="--rungs",
        metavar="LIST",
        parse=parse_threat_models,
        recorded_as="ladder",
        help="Some of clean,gray-box,transfer,black-box,adaptive. Default: all; transfer needs --surrogate.",
    )
    attacks: tuple[AttackConfig, ...] = option(
        (),
        flag="--attack",
        metavar="KIND[-STEPS][xRESTARTS]",
        parse_each=parse_attack,
        recorded_as="ladder",
        help="Attack to make, such as pgd-100x5; repeatable. Default: the protocol's attacks.",
    )
    eps: tuple[str, ...] = option(  # such as "8/255", in units of `eps_space`
        (),
        metavar="LIST",
        parse=parse_texts,
        recorded_as="ladder",
        help="L-infinity budgets. Default: 2/255,4/255,8/255,16/255 of [0, 1].",
    )
    eps_space: EpsSpace = option(  # the paper's eps of 0.3 is read in it first, too
        "unit", recorded_as="ladder", help="Range that --eps is given in: unit is [0, 1], signed is [-1, 1]."
    )
    limit: int | None = option(
        None, minimum=1, recorded_as="photographs", help="Number of photographs, spread over the classes. Default: all."
    )
    expensive_limit: int = option(
        64, minimum=1, help="Number of photographs on black-box, adaptive and other expensive rungs."
    )
    seed: int = option(0, minimum=0, help="Seed of everything that is random.")
    batch_size: int = option(16, minimum=1, help="Number of photographs attacked and committed together.")
    image_size: Size = option(
        0, flag="--size", former="--image-size", metavar="auto|original|N", parse=parse_size, help=SIZE_HELP
    )
    paper: bool = option(
        False, recorded_as="ladder", help="Also measure what the paper's Tables 2 to 5 show, and put it beside ours."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gate is None and self.gate_fpr is not None:
            raise ConfigError("--gate-fpr is for --gate.", hint="add --gate shipped")
        names = [name for name, _ in self.surrogates]
        if len(set(names)) < len(names):
            raise ConfigError("The same surrogate is named twice.")
        others = [name for name, _ in self.against]
        if twice := sorted({name for name in others if others.count(name) > 1}):
            raise ConfigError(f"--against {twice[0]}=...: the name is taken.", hint="call it something else")
        if (self.defended.name, self.defended.weights) in self.surrogates:
            raise ConfigError(
                f"{self.defended.name} is the classifier that is defended: examples made on it are gray-box.",
                hint="name another classifier as --surrogate",
            )

    @property
    def defended(self) -> ClassifierConfig:
        """The classifier behind the purifier."""
        self.check_named("An evaluation")
        return self.choice

    @property
    def truth_from(self) -> str:
        """`predicted`, `folders`, or a file's name."""
        return super().truth_from or FOLDERS
