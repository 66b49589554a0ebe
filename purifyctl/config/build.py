"""The options of `purifyctl build-engine`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from purifyctl.config.backends import AHEAD_OF_TIME, BackendName, EnginePrecision
from purifyctl.config.classifier import CLASSIFIER_HELP, ClassifierOptions
from purifyctl.config.engine import EngineConfig
from purifyctl.config.options import option
from purifyctl.config.values import SQUARE_HELP, parse_square

Precision = Literal["auto", EnginePrecision]


@dataclass(frozen=True)
class BuildOptions(ClassifierOptions):
    """The options of `purifyctl build-engine`, beyond the recipe.

    An option wins over the recipe's key of the same name. It is None, or empty, when the recipe decides.
    """

    classifier: str | None = option(None, help=CLASSIFIER_HELP + "the recipe's, or none.")
    checkpoint: Path | None = option(
        None, help="purifier.safetensors or its run folder. Default: the one that ships for the classifier."
    )
    out: Path | None = option(None, help="Bundle folder. Default: engines/BACKEND-PRECISION.")
    backend: BackendName | None = option(None, help=f"Library that runs the engine. Default: {EngineConfig.backend}.")
    precision: Precision | None = option(
        None, help="auto: the fastest on this machine of those that agree with torch, by measurement. Default: auto."
    )
    image_size: int | None = option(None, metavar="auto|N", parse=parse_square, help=SQUARE_HELP)
    batch_size: int | None = option(None, help=f"Number of images per engine call. Default: {EngineConfig.batch_size}.")
    targets: tuple[str, ...] = option(
        (), flag="--target", help=f"GPU for {' or '.join(AHEAD_OF_TIME)}, such as SM86; repeatable. Default: all."
    )
    fused: bool | None = option(
        None, flag="--fused/--separate", help="Also build purifier and classifier as one graph, which run then prefers."
    )
    gate: str | None = option(
        None, help="Gate for run --gate: a checkpoint, or [bold]none[/]. Default: the shipped gate."
    )
    parity_photos: Path | None = option(
        None, help="Photographs to compare engine and torch on. Default: those inside packages."
    )
    calibration_photos: Path | None = option(
        None, help="Photographs that the ranges of INT8 come from. Default: those inside packages."
    )
    gate_photos: Path | None = option(
        None, help="Your clean photographs, to set the gate's thresholds. Default: the gate's own thresholds."
    )
    explain: bool = option(False, help="Say which layer first differs from FP32, and which differs most.")
    overwrite: bool = option(False, help="Replace an existing bundle.")
