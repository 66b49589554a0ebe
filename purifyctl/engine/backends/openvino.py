"""OpenVINO on the CPU: one request per core, each on its own thread."""

import functools
import queue
from pathlib import Path
from typing import Any, Self

import numpy as np

from purifyctl.engine.backends import Batch
from purifyctl.errors import BackendError
from purifyctl.machine import cpu_flags


@functools.cache
def _core() -> Any:
    """The process's one `openvino.Core`, kept until the end.

    A core's CPU plugin sets the thread's alternate signal stack and, when dropped, puts back the one it found. Of two
    cores the later may put back the earlier one's, long unmapped: the next Ctrl-C is then a segmentation fault.
    """
    import openvino

    return openvino.Core()


def supports_bf16() -> bool:
    """Whether this CPU computes in BF16 at all (AVX-512 BF16 or AMX)."""
    return "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def has_amx() -> bool:
    """Whether this CPU has matrix units for BF16 (Intel AMX)."""
    return "amx_bf16" in cpu_flags()


class OpenVINORunner:
    """Runs an ONNX graph at a fixed batch size; smaller batches are padded, so that an image's result never depends
    on how many came with it.

    FP32 graph, `precision` "bf16": computed in BF16 where the CPU does so natively; refused where it does not.
    """

    device_id: int | None = None

    def __init__(self, file: Path, *, precision: str, image_size: int, batch_size: int) -> None:
        import openvino

        if precision == "bf16" and not supports_bf16():
            raise BackendError("This CPU has no BF16.", hint="build the engine with --precision fp32")
        options = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": "bf16" if precision == "bf16" else "f32",
            # Two networks share the cores here: pinned threads of one would queue behind the other's.
            "ENABLE_CPU_PINNING": "NO",
        }
        try:
            model = _core().read_model(file)
            model.reshape([batch_size, image_size, image_size, 3])
            self._model = _core().compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO refuses {file}: {error}") from None
        # OpenVINO's bindings load numpy's interface on first use; two threads that do so at once wait for each other
        # forever, one with Python's lock, the other with theirs
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
            # copies: the request's buffers are used again
            return tuple(request.get_output_tensor(i).data[:n].copy() for i in range(len(self._model.outputs)))
        finally:
            self._requests.put(request)
