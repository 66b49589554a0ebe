"""TensorRT, in both flavours: `tensorrt` (data centre) and `tensorrt_rtx` (built ahead of time, no GPU needed).

The two share their Python API. Graphs are strongly typed: TensorRT computes in the precision the ONNX graph has.
Building RTX plans is tested without a GPU; `TensorRTRunner` needs one.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from purifyctl.backends import Batch
from purifyctl.errors import BackendError, ConfigError, MissingDependencyError

INPUT = "images"  # the graphs' input tensor

_MODULES = {
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt"),
    "tensorrt-rtx": ("tensorrt_rtx", "tensorrt-rtx-cu13", "rtx"),
}


def library(flavour: str) -> Any:
    """The Python module of `flavour`: "tensorrt" or "tensorrt-rtx"."""
    module, package, extra = _MODULES[flavour]
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingDependencyError(package, needed_for=f"The backend {flavour}", extra=extra) from None


def targets(flavour: str) -> tuple[str, ...]:
    """Compute capabilities that `flavour` builds for ahead of time, such as "SM86"; empty if only for the GPU here."""
    if flavour != "tensorrt-rtx":
        return ()
    return tuple(
        sorted((n for n in vars(library(flavour).ComputeCapability) if n.startswith("SM")), key=lambda n: int(n[2:]))
    )


def check_targets(backend: str, wanted: Sequence[str]) -> None:
    """Refuse targets that `backend` does not know, before any time is spent."""
    for target in wanted:
        known = targets(backend)
        if target not in known:
            raise ConfigError(f"{backend} does not build for {target}.", hint=f"targets: {', '.join(known)}")


def _start(kind: Any, flavour: str, logger: Any) -> Any:
    try:
        return kind(logger)
    except TypeError:  # how the bindings say that there is no driver
        raise BackendError(f"{flavour} cannot start: it finds no usable GPU driver.", hint="nvidia-smi") from None


def build_plan(onnx_file: Path, *, flavour: str, image_size: int, batch_size: int, target: str | None = None) -> bytes:
    """Build a plan for batches of 1 to `batch_size` square images.

    Parameters
    ----------
    target
        A compute capability such as "SM86" (tensorrt-rtx only; no GPU is needed). None builds for the GPU here.

    Raises
    ------
    BackendError
        The parser or the builder refuses; its own words are in the message.
    """
    trt = library(flavour)
    logger = _Log(trt).logger
    builder = _start(trt.Builder, flavour, logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx_file)):
        reasons = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise BackendError(f"{flavour} cannot parse {onnx_file}: {reasons}")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    low, high = (1, image_size, image_size, 3), (batch_size, image_size, image_size, 3)
    profile.set_shape(INPUT, low, high, high)  # min, opt, max: `run` sends full batches but for the last
    config.add_optimization_profile(profile)
    if target is not None:
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, target), 0)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackendError(f"{flavour} could not build {onnx_file} for {target or 'this GPU'}: {_Log.last}")
    return bytes(plan)


class TensorRTRunner:
    """Runs a plan on the current GPU, on its own stream, without copying batches that are already there."""

    concurrency = 1

    def __init__(self, file: Path, *, flavour: str) -> None:
        import torch

        if not torch.cuda.is_available():
            raise BackendError(
                f"The engine {file} needs an NVIDIA GPU, and there is none here.",
                hint="build one for this machine: purifyctl build-engine --backend openvino",
            )
        trt = library(flavour)
        self._torch = torch
        self.device_id: int | None = torch.cuda.current_device()
        runtime = _start(trt.Runtime, flavour, _Log(trt).logger)
        self._engine = runtime.deserialize_cuda_engine(file.read_bytes())
        if self._engine is None:  # the library returns None instead of raising
            raise BackendError(
                f"{flavour} {trt.__version__} refuses the plan {file}: {_Log.last}",
                hint="build it again on this machine with purifyctl build-engine",
            )
        self._context = self._engine.create_execution_context()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        dtypes = {trt.DataType.UINT8: torch.uint8, trt.DataType.FLOAT: torch.float32, trt.DataType.HALF: torch.float16}
        names = (self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors))
        self._outputs = {name: dtypes[self._engine.get_tensor_dtype(name)] for name in names if name != INPUT}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        del self._context, self._engine

    def infer(self, images: Batch) -> tuple[Batch, ...]:
        """`images`: a torch CUDA tensor (used where it is) or a numpy array (copied). Returns torch CUDA tensors."""
        torch = self._torch
        x = images if isinstance(images, torch.Tensor) else torch.from_numpy(images).cuda(self.device_id)
        x = x.contiguous()
        self._context.set_input_shape(INPUT, tuple(x.shape))
        self._context.set_tensor_address(INPUT, x.data_ptr())
        outputs = []
        for name, dtype in self._outputs.items():
            out = torch.empty(tuple(self._context.get_tensor_shape(name)), dtype=dtype, device=x.device)
            self._context.set_tensor_address(name, out.data_ptr())
            outputs.append(out)
        self._stream.wait_stream(torch.cuda.current_stream())  # x may still be being made
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise BackendError(f"TensorRT failed while running: {_Log.last}")
        self._stream.synchronize()  # x and the outputs must outlive the work
        return tuple(outputs)


class _Log:
    """Keeps the library's last error for our messages, and its chatter off the terminal."""

    last = "it gave no reason"

    def __init__(self, trt: Any) -> None:
        class Logger(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity <= trt.ILogger.Severity.ERROR:
                    _Log.last = message

        self.logger = Logger()
