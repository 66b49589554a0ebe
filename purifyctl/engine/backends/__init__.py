"""Libraries that run a network, behind one small protocol.

    onnxruntime    the reference: any ONNX graph, anywhere
    openvino       the fast path on CPUs
    tensorrt       the fast path on NVIDIA GPUs, for `tensorrt` and `tensorrt_rtx` alike
    torch          the oracle that the others are compared with

Each library is imported by its own module, and only when it is used.
"""

import functools
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from purifyctl.config import GPU_BACKENDS
from purifyctl.errors import BackendError

# RGB uint8 [N, H, W, 3], or one of a network's outputs with N first: a numpy array, or a torch CUDA tensor.
Batch = Any

BACKENDS = "openvino, onnxruntime, tensorrt or tensorrt-rtx"


class Runner(Protocol):
    """One network, loaded. `infer` may be called from `concurrency` threads at once."""

    device_id: int | None  # the GPU whose memory batches should lie in; None: host memory
    concurrency: int  # threads that keep the device busy

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def infer(self, images: Batch) -> tuple[Batch, ...]:
        """Run RGB uint8 [n, H, W, 3] with 1 <= n <= the batch size it was opened with: the graph's outputs in order."""
        ...


def open_runner(backend: str, file: Path, *, precision: str, image_size: int, batch_size: int) -> Runner:
    """Load the network in `file` (an ONNX graph, or a TensorRT plan) on this machine.

    Raises
    ------
    BackendError
        The library is missing, or refuses the file or the machine.
    """
    if backend == "openvino":
        from purifyctl.engine.backends.openvino import OpenVINORunner

        return OpenVINORunner(file, precision=precision, image_size=image_size, batch_size=batch_size)
    if backend == "onnxruntime":
        from purifyctl.engine.backends.onnxruntime import ONNXRuntimeRunner

        return ONNXRuntimeRunner(file)
    if backend in GPU_BACKENDS:
        from purifyctl.engine.backends.tensorrt import TensorRTRunner

        return TensorRTRunner(file, flavour=backend)
    raise BackendError(f"There is no backend {backend}.", hint=BACKENDS)


def backend_version(backend: str) -> str:
    """The version of the library behind `backend`, as its own module says it."""
    if backend in GPU_BACKENDS:
        from purifyctl.engine.backends.tensorrt import library

        return str(library(backend).__version__)
    if backend not in ("openvino", "onnxruntime"):
        raise BackendError(f"There is no backend {backend}.", hint=BACKENDS)
    from importlib.metadata import version

    return version(backend)


def to_host(batch: Batch) -> NDArray[Any]:
    """A batch as a numpy array in host memory.

    From a GPU it comes through pinned memory on a stream for copies alone: other threads' work goes on beside it.
    """
    if isinstance(batch, np.ndarray):
        return batch
    import torch

    with torch.cuda.device(batch.device):
        copies = _copy_stream(batch.device)
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        copies.wait_stream(torch.cuda.current_stream())  # the batch may still be being made
        host = torch.empty(batch.shape, dtype=batch.dtype, pin_memory=True)  # torch keeps freed ones for the next
        with torch.cuda.stream(copies):
            host.copy_(batch, non_blocking=True)
            done.record()
        done.synchronize()
    return host.numpy()


@functools.cache
def _copy_stream(device: Any) -> Any:
    import torch

    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
