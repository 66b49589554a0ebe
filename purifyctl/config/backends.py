"""The inference backends: one record each, with what can be known without loading a library.

A backend is two files: its record here, and the module of `purifyctl.engine.backends` that the record names. Everything
else (what recipes accept, what the command line offers, what doctor looks for) is read from the records.
"""

from dataclasses import dataclass
from typing import Literal

BackendName = Literal[
    "openvino",
    "onnxruntime",
    "torch-cpu",
    "torch-cuda",
    "tensorrt",
    "tensorrt-rtx",
]
# int8 is for the purifier alone: the rest is in FP32, or with int8-bf16 in BF16
EnginePrecision = Literal["fp32", "fp16", "bf16", "int8", "int8-bf16"]
GraphKind = Literal["onnx", "torch"]  # an ONNX file, or a program of torch.export


@dataclass(frozen=True)
class Backend:
    """What is known about one backend. Its module says how it works."""

    name: BackendName
    module: str  # implements `purifyctl.engine.backends.Implementation`, or `PlanBuilder` if it builds plans
    device: Literal["cpu", "cuda"]  # where it computes
    precisions: tuple[EnginePrecision, ...]  # its engines have one of these
    # "none": it runs the graph; "ahead": plans for GPU generations, built on any machine; "here": for the GPU here
    plans: Literal["none", "ahead", "here"]
    symmetric: bool  # INT8 activations are signed, with zero in the middle
    package: str  # on PyPI
    imported_as: str  # the package's Python module
    extra: str = ""  # the extra of purifyctl that installs the package; empty: purifyctl always installs it
    graph: GraphKind = "onnx"  # what it runs, or makes its plans from
    cards: tuple[str, ...] = ()  # GPUs that it has kernels for, as compute capabilities; empty: all that CUDA 13 knows


# FP16 on a CPU is slower than FP32; TensorRT's BF16 plans cannot be compared with torch here (docs/adr/0003).
_RECORDS = (
    Backend(
        name="openvino",
        module="purifyctl.engine.backends.openvino",
        device="cpu",
        precisions=("fp32", "bf16", "int8", "int8-bf16"),
        plans="none",
        symmetric=False,
        package="openvino",
        imported_as="openvino",
    ),
    Backend(
        name="onnxruntime",
        module="purifyctl.engine.backends.onnxruntime",
        device="cpu",
        precisions=("fp32", "fp16", "int8"),
        plans="none",
        symmetric=False,
        package="onnxruntime",
        imported_as="onnxruntime",
    ),
    Backend(
        name="torch-cpu",
        module="purifyctl.engine.backends.torch",
        device="cpu",
        precisions=("fp32", "fp16"),
        plans="none",
        symmetric=False,
        package="torch",
        imported_as="torch",
        graph="torch",
    ),
    Backend(
        name="torch-cuda",
        module="purifyctl.engine.backends.torch_cuda",
        device="cuda",
        precisions=("fp16", "fp32"),
        plans="none",
        symmetric=False,
        package="torch",
        imported_as="torch",
        graph="torch",
    ),
    Backend(
        name="tensorrt",
        module="purifyctl.engine.backends.tensorrt",
        device="cuda",
        precisions=("fp16", "fp32", "int8"),
        plans="here",
        symmetric=True,
        package="tensorrt-cu13",
        imported_as="tensorrt",
        extra="tensorrt",
    ),
    Backend(
        name="tensorrt-rtx",
        module="purifyctl.engine.backends.tensorrt_rtx",
        device="cuda",
        precisions=("fp16", "fp32", "int8"),
        plans="ahead",
        symmetric=True,
        package="tensorrt-rtx-cu13",
        imported_as="tensorrt_rtx",
        extra="gpu",
        cards=("SM75", "SM80", "SM86", "SM89", "SM120"),
    ),
)
BACKENDS: dict[str, Backend] = {backend.name: backend for backend in _RECORDS}
DEFAULT_BACKEND: BackendName = "openvino"  # for recipes, and for the engine that is built on a machine without a GPU
# The fastest first: the engine that is built on a GPU is of the first one that is installed and has the card.
GPU_BACKENDS: tuple[BackendName, ...] = ("tensorrt-rtx", "tensorrt", "torch-cuda")
# Runs any graph of its kind on any machine; where a graph's own backend cannot run, this one runs it.
REFERENCE_BACKENDS: dict[GraphKind, BackendName] = {"onnx": "onnxruntime", "torch": "torch-cpu"}
AHEAD_OF_TIME = tuple(
    backend.name for backend in _RECORDS if backend.plans == "ahead"
)  # the backends that take targets


def is_int8(precision: EnginePrecision) -> bool:
    """Whether the purifier computes in 8-bit integers."""
    return precision in ("int8", "int8-bf16")


def is_bf16(precision: EnginePrecision) -> bool:
    """Whether what is not in 8-bit integers computes in BF16."""
    return precision in ("bf16", "int8-bf16")
