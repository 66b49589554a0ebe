"""TensorRT, in both flavours: `tensorrt` (data centre) and `tensorrt_rtx` (built ahead of time, no GPU needed).

The two share their Python API. What differs is when kernels are chosen: `tensorrt` times them while it builds, and
the timings are kept; `tensorrt_rtx` compiles them on the machine that runs the plan, and the kernels are kept.
Graphs are strongly typed: TensorRT computes in the precision the ONNX graph has (docs/adr/0003, 0008).

Building RTX plans is tested without a GPU. `TensorRTRunner` needs one and has not been run on one yet.
"""

import functools
import hashlib
import importlib
import re
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from purifyctl import console
from purifyctl.engine.backends import Batch
from purifyctl.errors import BackendError, ConfigError, MissingDependencyError
from purifyctl.files import write_into_tree
from purifyctl.machine import cache_folder

INPUT = "images"  # the graphs' input tensor
OUTPUTS = ("purified", "probabilities", "scores")  # in the order in which they are returned: plans have their own
ALIGNMENT = 256  # bytes; TensorRT's demand on the addresses of inputs and outputs

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
    trt = library(flavour)
    return tuple(sorted((n for n in vars(trt.ComputeCapability) if n.startswith("SM")), key=lambda n: int(n[2:])))


def capability() -> str:
    """The current GPU's compute capability, such as "SM86"; empty without a GPU."""
    import torch

    return "SM{}{}".format(*torch.cuda.get_device_capability()) if torch.cuda.is_available() else ""


def check_targets(backend: str, wanted: Sequence[str]) -> None:
    """Refuse targets that `backend` does not know, before any time is spent."""
    for target in wanted:
        known = targets(backend)
        if target not in known:
            raise ConfigError(
                f"{backend} does not build for {target}.",
                hint=f"targets: {', '.join(known)}" if known else "without targets it builds for the GPU here",
            )


def build_plan(onnx_file: Path, *, flavour: str, image_size: int, batch_size: int, target: str | None = None) -> bytes:
    """Build a plan for batches of `batch_size` square images, to which `TensorRTRunner` pads smaller ones.

    On tensorrt-rtx the same graph gives the same bytes, but for SM75 (docs/adr/0008). On tensorrt, timings decide; they
    are kept in the user's cache, per version and GPU.

    Parameters
    ----------
    target
        A compute capability such as "SM86" (tensorrt-rtx only; no GPU is needed). None builds for the GPU here.

    Raises
    ------
    ConfigError
        This flavour does not know the target.
    BackendError
        The parser or the builder refuses; its own words are in the message.
    """
    check_targets(flavour, [target] if target else [])
    trt, logger = library(flavour), _logger(flavour)
    logger.errors.clear()
    builder = _start(trt.Builder, flavour)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx_file)):
        reasons = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise BackendError(f"{flavour} cannot parse {onnx_file}: {reasons}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default; would round an FP32 graph's products to 10 bits
    config.add_optimization_profile(_profile(builder, image_size, batch_size, target))
    kept = None
    if flavour == "tensorrt-rtx":
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, target or "CURRENT"), 0)
    else:
        kept = _load_timings(trt, config)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BackendError(
            f"{flavour} could not build {onnx_file} for {target or 'this GPU'}: {logger.reason()}",
            hint=f"leave out --target {target}, or choose another --precision" if target else "nvidia-smi",
        )
    if kept is not None:
        file, timings = kept
        _keep(file, timings.serialize())
    return bytes(plan)


def _profile(builder: Any, image_size: int, batch_size: int, target: str | None) -> Any:
    """One batch size as min, opt and max: on a range, what the RTX compiler makes differs from run to run.

    Not for Turing, whose plans of a fixed batch hold constants for each image of it: 600 MB instead of 14.
    """
    profile = builder.create_optimization_profile()
    smallest = 1 if target == "SM75" else batch_size
    low, high = ((n, image_size, image_size, 3) for n in (smallest, batch_size))
    profile.set_shape(INPUT, low, high, high)  # min, opt, max
    return profile


class TensorRTRunner:
    """Runs a plan on the current GPU, on a stream of its own.

    Smaller batches are padded, so that an image's result never depends on how many came with it. Calls from several
    threads queue on the stream: the GPU goes from one batch to the next while the threads see to results.

    Parameters
    ----------
    cuda_graph
        Launch the network as one CUDA graph instead of kernel by kernel.

    Raises
    ------
    BackendError
        No GPU, no library, not enough memory, or a plan of another version or GPU.
    """

    concurrency = 3  # a batch on the GPU, one queued behind it, one whose results the host works on

    def __init__(self, file: Path, *, flavour: str, cuda_graph: bool = True) -> None:
        import torch

        if not torch.cuda.is_available():
            raise BackendError(
                f"The engine {file} needs an NVIDIA GPU, and there is none here.",
                hint="build one for this machine: purifyctl build-engine --backend openvino",
            )
        trt, self._logger = library(flavour), _logger(flavour)
        self._logger.errors.clear()
        self._torch = torch
        self._lock = threading.Lock()  # one context: one thread at a time may enqueue
        self._kernels: tuple[Path, Any] | None = None
        self.device_id: int | None = torch.cuda.current_device()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        plan = file.read_bytes()
        self._runtime = _start(trt.Runtime, flavour)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:  # the library returns None instead of raising
            raise BackendError(
                f"{flavour} {trt.__version__} refuses the plan {file}: {self._logger.reason()}",
                hint="build it again on this machine with purifyctl build-engine",
            )
        if flavour == "tensorrt-rtx":
            self._context = self._engine.create_execution_context(self._rtx_options(trt, plan, cuda_graph))
        else:
            self._context = self._engine.create_execution_context()
        if self._context is None:
            raise BackendError(
                f"{flavour} cannot make {file} ready to run: {self._logger.reason()}",
                hint="build it with a smaller --batch-size, or free GPU memory: nvidia-smi",
            )
        shape = tuple(self._engine.get_tensor_profile_shape(INPUT, 0)[2])  # the largest
        self._context.set_input_shape(INPUT, shape)
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        dtypes = {trt.DataType.UINT8: torch.uint8, trt.DataType.FLOAT: torch.float32, trt.DataType.HALF: torch.float16}
        # A CUDA graph's own buffers; without one, what batches are checked against and results made like.
        self._input = torch.zeros(shape, dtype=torch.uint8, device="cuda")
        self._outputs = {
            name: torch.empty(
                tuple(self._context.get_tensor_shape(name)),
                dtype=dtypes[self._engine.get_tensor_dtype(name)],
                device="cuda",
            )
            for name in sorted(set(names) - {INPUT}, key=OUTPUTS.index)
        }
        # tensorrt-rtx captures by itself: only it knows when it has compiled its kernels
        self._graph = self._capture() if cuda_graph and flavour == "tensorrt" else None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object = None, *_: object) -> None:
        if self._kernels is not None and kind is None:
            file, kernels = self._kernels
            _keep(file, kernels.serialize())
        # in this order: nothing may outlive what it was made from
        del self._graph, self._context, self._kernels, self._engine, self._runtime

    def infer(self, images: Batch) -> tuple[Batch, ...]:
        """Run RGB uint8 [n, H, W, 3], n up to the plan's batch size. Returns torch CUDA tensors, complete.

        A numpy array is copied to the GPU. Anything on it (a torch tensor, or what speaks DLPack, such as DALI's) is
        used where it is, after the work that makes it on the current stream. The results stay the caller's own.

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
                wanted = f"uint8 [1 to {most}, {', '.join(map(str, self._input.shape[1:]))}]"
                raise ValueError(f"this plan takes {wanted}, not {x.dtype} {list(x.shape)}")
            try:
                # All of this belongs to the caller's stream, and lives until the work on ours is done, below.
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

    def _capture(self) -> Any:
        """Record the network as a CUDA graph, on buffers of its own, before other threads use this runner."""
        torch = self._torch
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            self._execute(self._input, self._outputs)  # the first run allocates, which a capture must not
        graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: what other threads do on the GPU meanwhile, such as decoding, is none of its business
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._execute(self._input, self._outputs)
        except RuntimeError as error:
            raise BackendError(
                f"TensorRT's work cannot be captured as a CUDA graph: {error}", hint="nvidia-smi"
            ) from None
        return graph

    def _rtx_options(self, trt: Any, plan: bytes, cuda_graph: bool) -> Any:
        """How tensorrt-rtx runs `plan`: with the kernels that an earlier run compiled, where they fit this machine."""
        options = self._engine.create_runtime_config()
        if cuda_graph:
            options.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        kernels = options.create_runtime_cache()
        file = cache_folder() / "tensorrt-rtx" / f"{hashlib.sha256(plan).hexdigest()}.kernels"
        if (kept := _read(file)) and not kernels.deserialize(kept):
            console.detail(f"The kernels in {file} are of another driver or GPU: compiling them again.")
        options.set_runtime_cache(kernels)
        self._kernels = (file, kernels)
        return options


def _load_timings(trt: Any, config: Any) -> tuple[Path, Any]:
    """Give the builder the timings of earlier builds on this GPU: quicker, and the same kernels are chosen again.

    Returns the file and the cache, which must live until the plan is built.
    """
    import torch

    gpu = re.sub(r"\W+", "-", torch.cuda.get_device_name())
    file = cache_folder() / "tensorrt" / f"{trt.__version__}-{gpu}.timings"
    timings = config.create_timing_cache(_read(file))
    if timings is None or not config.set_timing_cache(timings, ignore_mismatch=False):
        console.detail(f"The timings in {file} do not fit this machine: timing again.")
        timings = config.create_timing_cache(b"")
        config.set_timing_cache(timings, ignore_mismatch=False)
    return file, timings


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


def _keep(file: Path, data: Any) -> None:
    """Write the library's `data` into the user's cache. Failing that costs time at the next start, and says so."""
    try:
        write_into_tree(file, bytes(data))
    except OSError as error:
        console.warn(f"{file} cannot be written, so the next start takes longer: {error.strerror or error}.")


def _start(kind: Any, flavour: str) -> Any:
    try:
        return kind(_logger(flavour))
    except TypeError:  # how the bindings say that there is no driver
        raise BackendError(f"{flavour} cannot start: it finds no usable GPU driver.", hint="nvidia-smi") from None


@functools.cache
def _logger(flavour: str) -> Any:
    """Keeps the library's errors for our messages, and its chatter off the terminal.

    One per process, for good: the library goes on using the first that it was given.
    """
    trt = library(flavour)

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=3)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

        def reason(self) -> str:
            return "; ".join(self.errors) or "it gave no reason"

    return Logger()
