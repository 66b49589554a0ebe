"""The inference backends: one record each, with what can be known without loading a library.

A backend is two files: its record here, and the module of `purifyctl.engine.backends` that the record names. Everything
else (what recipes accept, what the command line offers, what doctor looks for) is read from the records.
"""

from dataclasses import dataclass
from typing import Literal

BackendName = Literal["openvino", "onnxruntime", "tensorrt", "tensorrt-rtx"]
EnginePrecision = Literal["fp32", "fp16", "bf16", "int8"]


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


# FP16 on a CPU is slower than FP32; TensorRT's BF16 plans cannot be compared with torch here (docs/adr/0003).
_RECORDS = (
    Backend(
        name="openvino",
        module="purifyctl.engine.backends.openvino",
        device="cpu",
        precisions=("fp32", "bf16", "int8"),
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
        extra="rtx",
    ),
)
BACKENDS: dict[str, Backend] = {backend.name: backend for backend in _RECORDS}
DEFAULT_BACKEND: BackendName = "openvino"  # for recipes, and for the engine that is built if the user names no engine
REFERENCE_BACKEND: BackendName = (
    "onnxruntime"  # runs any graph on any machine; where a graph's own backend cannot run, this one runs it
)
AHEAD_OF_TIME = tuple(
    backend.name for backend in _RECORDS if backend.plans == "ahead"
)  # the backends that take targets
