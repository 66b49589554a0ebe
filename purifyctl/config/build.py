"""The options of `purifyctl build-engine`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from purifyctl.config.backends import AHEAD_OF_TIME, BackendName
from purifyctl.config.classifier import WEIGHTS_HELP
from purifyctl.config.engine import EngineConfig
from purifyctl.config.options import option

Precision = Literal["auto", "fp32", "fp16", "bf16", "int8"]


@dataclass(frozen=True)
class BuildOptions:
    """What `purifyctl build-engine` can be told, beyond the recipe.

    Fields that a recipe has too win over it. They are None, or empty, when the recipe decides.
    """

    checkpoint: Path | None = option(
        None, help="purifier.safetensors or its run folder. Default: the shipped purifier."
    )
    out: Path | None = option(None, help="Bundle folder. Default: engines/BACKEND-PRECISION.")
    backend: BackendName | None = option(None, help=f"What runs it. Default: {EngineConfig.backend}.")
    precision: Precision | None = option(None, help="Default: auto, the fastest that the backend has on this machine.")
    classifier: str | None = option(
        None, help="torchvision or timm name, [bold]module:factory[/], or none. Default: none."
    )
    weights: str = option("", help=WEIGHTS_HELP)
    image_size: int | None = option(None, help=f"Pixels; side of the square. Default: {EngineConfig.image_size}.")
    batch_size: int | None = option(None, help=f"Images per engine call. Default: {EngineConfig.batch_size}.")
    targets: tuple[str, ...] = option(
        (), flag="--target", help=f"GPU for {' or '.join(AHEAD_OF_TIME)}, such as SM86; repeatable. Default: all."
    )
    fused: bool | None = option(
        None, flag="--fused/--separate", help="Also purifier and classifier as one graph, for run."
    )
    gate: str | None = option(
        None, help="What run --gate decides by: a checkpoint, [bold]none[/], or by default the one that ships."
    )
    parity_photos: Path | None = option(
        None, help="Photographs to compare engine and torch on. Default: those inside packages."
    )
    calibration_photos: Path | None = option(
        None, help="Photographs that INT8's ranges come from. Default: those inside packages."
    )
    gate_photos: Path | None = option(
        None, help="Your clean photographs, that the gate's thresholds come from. Default: its own thresholds."
    )
    explain: bool = option(False, help="Say which layer is the first to differ from FP32, and which differs most.")
    overwrite: bool = option(False, help="Replace an existing bundle.")
