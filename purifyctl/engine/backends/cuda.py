"""What the backends for NVIDIA GPUs share: one network of a fixed batch size, as batches go through it."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from purifyctl.config import DEFAULT_BACKEND
from purifyctl.engine.backends import Batch
from purifyctl.errors import BackendError

ALIGNMENT = 256  # bytes; TensorRT's demand on the addresses of inputs and outputs


def current_gpu(file: Path) -> int:
    """The number of the current GPU, for the engine `file`. Also starts torch's CUDA, which the libraries share.

    Raises
    ------
    BackendError
        There is none.
    """
    import torch

    if not torch.cuda.is_available():
        raise BackendError(
            f"The engine {file} needs an NVIDIA GPU, and there is none here.",
            hint=f"build one for this machine: purifyctl build-engine --backend {DEFAULT_BACKEND}",
        )
    return torch.cuda.current_device()


class CudaRunner:
    """Runs a network on a GPU, on a stream of its own.

    Smaller batches are padded: an image's result never depends on how many came with it. Calls from several threads
    queue on the stream. The GPU goes from one batch to the next while the threads work on results.

    A subclass has `_execute`, which puts one full batch on the current stream.

    Parameters
    ----------
    name
        The library, for messages.
    device_id
        The GPU, which is the current one.
    input, outputs
        Buffers of a full batch, the outputs by name in the graph's order. A CUDA graph reads and writes them. Without
        one, batches are checked against the input, and results are made like the outputs.
    """

    concurrency = 3  # a batch on the GPU, one queued behind it, one whose results the host works on

    def __init__(self, name: str, device_id: int, input: Any, outputs: Mapping[str, Any]) -> None:
        import torch

        self._torch = torch
        self._lock = threading.Lock()  # one context: one thread at a time may enqueue
        self.device_id: int | None = device_id
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._name, self._input, self._outputs = name, input, outputs
        self._graph: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object = None, *_: object) -> None:
        self._graph = None

    def infer(self, images: Batch) -> tuple[Batch, ...]:
        """Run RGB uint8 [n, H, W, 3], n up to the batch size. Returns torch CUDA tensors, complete.

        A numpy array is copied to the GPU. A batch on the GPU (a torch tensor, or anything with DLPack, such as DALI's)
        is used in place, after the work of the current stream, which makes it. The caller owns the results.

        Raises
        ------
        ValueError
            Images of another size, number or type: the library would read past their end.
        BackendError
            The GPU or the library failed.
        """
        torch = self._torch
        with torch.cuda.device(self.device_id):  # a thread starts on GPU 0
            x = torch.from_dlpack(images)
            n, most = len(x), len(self._input)
            if x.dtype != torch.uint8 or x.shape[1:] != self._input.shape[1:] or not 1 <= n <= most:
                taken = f"uint8 [1 to {most}, {', '.join(map(str, self._input.shape[1:]))}]"
                raise ValueError(f"this engine takes {taken}, not {x.dtype} {list(x.shape)}")
            try:
                # These tensors belong to the caller's stream. They live until our stream's work is done, below.
                x = x.to(self._input.device).contiguous()
                if n < most or x.data_ptr() % ALIGNMENT:
                    padded = torch.zeros_like(self._input)
                    padded[:n] = x
                    x = padded
                made = {name: torch.empty_like(buffer) for name, buffer in self._outputs.items()}
                done = torch.cuda.Event(blocking=True)  # waiting sleeps: the cores are for decoding and encoding
                caller = torch.cuda.current_stream()
                with self._lock, torch.cuda.stream(self._stream):
                    self._stream.wait_stream(caller)
                    self._enqueue(x, made)
                    done.record()
                done.synchronize()
            except RuntimeError as error:  # torch's kind for what CUDA reports
                raise BackendError(f"The GPU failed while running: {error}", hint="nvidia-smi") from None
        return tuple(output[:n] for output in made.values())

    def _enqueue(self, x: Any, made: Mapping[str, Any]) -> None:
        """Put one full batch on the current stream. A graph's buffers are free again when the next batch gets there."""
        if self._graph is None:
            self._execute(x, made)
        else:
            self._input.copy_(x)
            self._graph.replay()
            for name, output in made.items():
                output.copy_(self._outputs[name])

    def _execute(self, x: Any, made: Mapping[str, Any]) -> None:
        """Put one full batch on the current stream: from `x` into the tensors of `made`."""
        raise NotImplementedError

    def capture(self) -> None:
        """Record the network as a CUDA graph with buffers of its own, before other threads use this runner.

        From then on it is launched as a whole, instead of kernel by kernel.
        """
        torch = self._torch
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._execute(self._input, self._outputs)  # the first run allocates memory, which a capture must not
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: the capture ignores what other threads do on the GPU meanwhile, such as decoding
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._execute(self._input, self._outputs)
        except RuntimeError as error:
            raise BackendError(
                f"{self._name}'s work cannot be captured as a CUDA graph: {error}", hint="nvidia-smi"
            ) from None
        self._graph = graph
