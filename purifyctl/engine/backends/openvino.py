"""OpenVINO on the CPU: one request per core, each on its own thread."""

import functools
import queue
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from purifyctl.config import EnginePrecision
from purifyctl.engine.backends import Batch
from purifyctl.errors import BackendError
from purifyctl.machine import cpu_flags, hush_libraries

if TYPE_CHECKING:  # it imports torch, which running an engine does not need
    from purifyctl.engine.rewrites import Pass


def version() -> str:
    return metadata.version("openvino")


def best_precision() -> EnginePrecision:
    """BF16 with AMX, otherwise FP32: AVX-512's BF16 is slower than FP32 (docs/adr/0004)."""
    return "bf16" if has_amx() else "fp32"


def supports(precision: EnginePrecision) -> bool:
    """BF16 needs AVX-512 BF16 or AMX."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") or precision != "bf16"


def rewrites(precision: EnginePrecision) -> "tuple[Pass, ...]":
    """With AMX, BF16 convolutions are so fast that transposed ones, which run in FP32, are rewritten as such."""
    from purifyctl.engine.rewrites import deconvs_as_conv3, fold_norms

    return (fold_norms, deconvs_as_conv3) if precision == "bf16" and has_amx() else (fold_norms,)


def open_runner(file: Path, *, precision: EnginePrecision, image_size: int, batch_size: int) -> "OpenVINORunner":
    return OpenVINORunner(file, precision=precision, image_size=image_size, batch_size=batch_size)


def has_amx() -> bool:
    """Whether this CPU has matrix units for BF16 (Intel AMX)."""
    return "amx_bf16" in cpu_flags()


@functools.cache
def _core() -> Any:
    """The only `openvino.Core` of the process, kept until the end.

    A core's CPU plugin sets the thread's alternate signal stack; when the core is dropped, it puts back the stack that
    it found. With two cores, the later one may put back the stack of the earlier one, whose memory is long unmapped.
    The next Ctrl-C is then a segmentation fault.
    """
    return _library().Core()


def _library() -> Any:
    hush_libraries()
    import openvino

    return openvino


class OpenVINORunner:
    """Runs an ONNX graph at a fixed batch size. Smaller batches are padded: an image's result never depends on how many
    came with it.

    With `precision` "bf16" it computes an FP32 graph in BF16. It refuses a CPU that has no BF16.
    """

    device_id: int | None = None

    def __init__(self, file: Path, *, precision: EnginePrecision, image_size: int, batch_size: int) -> None:
        openvino = _library()
        if not supports(precision):
            raise BackendError("This CPU has no BF16.", hint="build the engine with --precision fp32")
        options = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            # Two networks share the cores: with pinned threads, one network's would queue behind the other's.
            "ENABLE_CPU_PINNING": "NO",
        }
        try:
            model = _core().read_model(file)
            model.reshape([batch_size, image_size, image_size, 3])
            self._model = _core().compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO refuses {file}: {error}") from None
        # OpenVINO's bindings load numpy's interface on first use. If two threads did so at once, they would wait for
        # each other forever: one holds Python's lock, the other holds the bindings' own.
        _ = openvino.Tensor(np.zeros(1, np.uint8)).data
        self._batch_size = batch_size
        self.concurrency = int(self._model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self.concurrency):
            self._requests.put(self._model.create_infer_request())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def infer(self, images: Batch) -> tuple[Batch, ...]:
        n = len(images)
        if n < self._batch_size:
            images = np.concatenate([images, np.zeros((self._batch_size - n, *images.shape[1:]), np.uint8)])
        request = self._requests.get()
        try:
            request.infer([images], share_inputs=True)
            # copies: the next batch overwrites the request's buffers
            return tuple(request.get_output_tensor(i).data[:n].copy() for i in range(len(self._model.outputs)))
        finally:
            self._requests.put(request)
