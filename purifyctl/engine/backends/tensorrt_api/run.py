"""A plan on the current GPU. This needs one, and has not been run on one yet."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from purifyctl.config import DEFAULT_BACKEND, BackendName
from purifyctl.engine.backends import Batch
from purifyctl.engine.backends.tensorrt_api.library import Cache, Library, load
from purifyctl.engine.tensors import INPUT, OUTPUTS
from purifyctl.errors import BackendError

ALIGNMENT = 256  # bytes; TensorRT's demand on the addresses of inputs and outputs


@dataclass(frozen=True)
class Plan:
    """A plan, deserialised on the current GPU."""

    library: Library
    file: Path
    data: bytes
    device_id: int
    runtime: Any
    engine: Any


def load_plan(name: BackendName, file: Path) -> Plan:
    """Deserialise a plan.

    Raises
    ------
    BackendError
        No GPU, or a plan of another version or GPU.
    MissingDependencyError
        The library is not installed.
    """
    import torch

    if not torch.cuda.is_available():
        raise BackendError(
            f"The engine {file} needs an NVIDIA GPU, and there is none here.",
            hint=f"build one for this machine: purifyctl build-engine --backend {DEFAULT_BACKEND}",
        )
    device_id = torch.cuda.current_device()  # also starts torch's CUDA, which TensorRT shares
    library = load(name)
    data = file.read_bytes()
    runtime = library.start(library.trt.Runtime)
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:  # the library returns None instead of raising
        raise BackendError(
            f"{name} {library.trt.__version__} refuses the plan {file}: {library.logger.reason()}",
            hint="build it again on this machine with purifyctl build-engine",
        )
    return Plan(library, file, data, device_id, runtime, engine)


class PlanRunner:
    """Runs a plan on the current GPU, on a stream of its own.

    Smaller batches are padded: an image's result never depends on how many came with it. Calls from several threads
    queue on the stream. The GPU goes from one batch to the next while the threads work on results.

    Parameters
    ----------
    context
        The engine's execution context; None: the library could not make one.
    cache
        What the library learns while it runs; it is kept when the runner is closed without an error.

    Raises
    ------
    BackendError
        Not enough memory.
    """

    concurrency = 3  # a batch on the GPU, one queued behind it, one whose results the host works on

    def __init__(self, plan: Plan, context: Any, cache: Cache | None = None) -> None:
        import torch

        self._torch = torch
        self._lock = threading.Lock()  # one context: one thread at a time may enqueue
        self.device_id: int | None = plan.device_id
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._logger, trt = plan.library.logger, plan.library.trt
        self._runtime, self._engine, self._context, self._cache = plan.runtime, plan.engine, context, cache
        if self._context is None:
            raise BackendError(
                f"{plan.library.name} cannot make {plan.file} ready to run: {self._logger.reason()}",
                hint="build it with a smaller --batch-size, or free GPU memory: nvidia-smi",
            )
        shape = tuple(self._engine.get_tensor_profile_shape(INPUT, 0)[2])  # the largest
        self._context.set_input_shape(INPUT, shape)
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        dtypes = {trt.DataType.UINT8: torch.uint8, trt.DataType.FLOAT: torch.float32, trt.DataType.HALF: torch.float16}
        # A CUDA graph's own buffers. Without one, batches are checked against the input, and results are made like
        # the outputs, in the graphs' order: plans have an order of their own.
        self._input = torch.zeros(shape, dtype=torch.uint8, device="cuda")
        self._outputs = {
            name: torch.empty(
                tuple(self._context.get_tensor_shape(name)),
                dtype=dtypes[self._engine.get_tensor_dtype(name)],
                device="cuda",
            )
            for name in sorted(set(names) - {INPUT}, key=OUTPUTS.index)
        }
        self._graph: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object = None, *_: object) -> None:
        if self._cache is not None and kind is None:
            self._cache.keep()
        # in this order: nothing may outlive what it was made from
        del self._graph, self._context, self._cache, self._engine, self._runtime

    def infer(self, images: Batch) -> tuple[Batch, ...]:
        """Run RGB uint8 [n, H, W, 3], n up to the plan's batch size. Returns torch CUDA tensors, complete.

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
                raise ValueError(f"this plan takes {taken}, not {x.dtype} {list(x.shape)}")
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
        self._context.set_tensor_address(INPUT, x.data_ptr())
        for name, output in made.items():
            self._context.set_tensor_address(name, output.data_ptr())
        if not self._context.execute_async_v3(self._torch.cuda.current_stream().cuda_stream):
            raise BackendError(
                f"TensorRT failed while running: {self._logger.reason()}",
                hint="free GPU memory (nvidia-smi), or build the engine again on this machine",
            )

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
                f"TensorRT's work cannot be captured as a CUDA graph: {error}", hint="nvidia-smi"
            ) from None
        self._graph = graph
