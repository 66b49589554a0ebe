"""OpenVINO on the CPU: one request per core, each on its own thread. Requests take slices of a batch."""

import functools
import queue
from collections import deque
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from purifyctl.config import EnginePrecision, is_bf16
from purifyctl.engine.backends import Batch
from purifyctl.engine.tensors import KEPT_IN_FP32, PROBABILITIES, SCORES
from purifyctl.errors import BackendError
from purifyctl.machine import cpu_flags, hush_libraries

if TYPE_CHECKING:  # it imports torch, which running an engine does not need
    from purifyctl.engine.rewrites import Pass

SLICE = 4  # images of one request: as fast as 16, and all cores share the last batch of a run


def version() -> str:
    return metadata.version("openvino")


def candidates() -> tuple[EnginePrecision, ...]:
    """FP32, and what this CPU has instructions for. They do not tell which is the fastest (docs/adr/0034)."""
    possible: tuple[EnginePrecision, ...] = ("fp32", "bf16")
    if cpu_flags() & {"avx512_vnni", "avx_vnni", "amx_int8"}:
        possible = (*possible, "int8", "int8-bf16")
    return tuple(precision for precision in possible if supports(precision))


def supports(precision: EnginePrecision) -> bool:
    """BF16 needs AVX-512 BF16 or AMX."""
    return "BF16" in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") or not is_bf16(precision)


def rewrites(precision: EnginePrecision) -> "tuple[Pass, ...]":
    """With AMX, BF16 convolutions are so fast that transposed ones, which run in FP32, are rewritten as such."""
    from purifyctl.engine.rewrites import deconvs_as_conv3, fold_norms

    return (fold_norms, deconvs_as_conv3) if precision == "bf16" and has_amx() else (fold_norms,)


def open_runner(
    file: Path, *, precision: EnginePrecision, image_size: int, batch_size: int
) -> "OpenVINORunner | SureRunner":
    runner = OpenVINORunner(file, precision=precision, image_size=image_size, batch_size=batch_size)
    if not is_bf16(precision) or PROBABILITIES not in runner.outputs:
        return runner
    return SureRunner(runner, OpenVINORunner(file, precision="fp32", image_size=image_size, batch_size=1))


def has_amx() -> bool:
    """Whether this CPU has matrix units for BF16 (Intel AMX)."""
    return "amx_bf16" in cpu_flags()


@functools.cache
def core() -> Any:
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


# Two classes whose probabilities differ by less than this in BF16 may change places in FP32 (docs/adr/0034)
UNSURE = 0.05


def _keep_in_fp32(model: Any) -> None:
    """Mark the operators that the graph's metadata names, so that OpenVINO does not compute them in BF16."""
    where = ["framework", KEPT_IN_FP32]
    if not model.has_rt_info(where):
        return
    names = set(model.get_rt_info(where).astype(str).split())
    mark = _mark()
    for node in model.get_ops():
        if node.get_friendly_name().split("/")[0] in names and node.get_type_name() != "Constant":
            node.set_rt_info(mark, _MARK)


def _first_in_whole_numbers(model: Any) -> None:
    """Compute a gate's first convolution in 8-bit integers, which takes a quarter off the gate's time.

    Nothing is rounded: its weights are whole numbers, and so are the pixels before they are divided by 255.
    """
    ops = _library().opset15
    first = next(node for node in model.get_ordered_ops() if node.get_type_name() == "Convolution")
    weights = first.input_value(1).get_node().data
    if (weights != weights.round()).any() or np.abs(weights).max() > 127:
        return
    for node, i, low, high in ((first.input_value(0).get_node(), 0, 0.0, 1.0), (first, 1, -128.0, 127.0)):
        ends = [np.float32(low), np.float32(high)]
        node.input(i).replace_source_output(ops.fake_quantize(node.input_value(i), *ends, *ends, levels=256).output(0))
    model.validate_nodes_and_infer_types()


_MARK = "DisablePrecisionConversion_0"
_MARKED = """<net name="marked" version="11"><layers>
<layer id="0" name="x" type="Parameter" version="opset1"><data shape="1" element_type="f32"/>
<output><port id="0" precision="FP32"><dim>1</dim></port></output></layer>
<layer id="1" name="marked" type="Abs" version="opset1">
<rt_info><attribute name="DisablePrecisionConversion" version="0" value="dynamic:f16"/></rt_info>
<input><port id="0" precision="FP32"><dim>1</dim></port></input>
<output><port id="1" precision="FP32"><dim>1</dim></port></output></layer>
<layer id="2" name="y" type="Result" version="opset1">
<input><port id="0" precision="FP32"><dim>1</dim></port></input></layer>
</layers><edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/>
<edge from-layer="1" from-port="1" to-layer="2" to-port="0"/></edges></net>"""


@functools.cache
def _mark() -> Any:
    """What OpenVINO's own format writes beside an operator that must not be computed in fewer bits.

    Python cannot make it, but it can be read from such a model and given to other operators.
    """
    marked = core().read_model(_MARKED.encode(), _library().Tensor(np.zeros(1, np.uint8)))
    return next(node for node in marked.get_ops() if node.get_friendly_name() == "marked").get_rt_info()[_MARK]


class OpenVINORunner:
    """Runs an ONNX graph. A batch is cut into slices, which idle requests take; the last one is padded. So an image's
    result never depends on how many came with it, and few images take little time.

    If `precision` has BF16 in it, it computes an FP32 graph in BF16, except the layers that the graph says stay in FP32
    (`purifyctl.engine.kept`). It refuses a CPU that has no BF16.
    """

    device_id: int | None = None

    def __init__(self, file: Path, *, precision: EnginePrecision, image_size: int, batch_size: int) -> None:
        openvino = _library()
        if not supports(precision):
            raise BackendError("This CPU has no BF16.", hint="build the engine with --precision fp32")
        options = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": "f32",
            # Two networks share the cores: with pinned threads, one network's would queue behind the other's.
            "ENABLE_CPU_PINNING": "NO",
        }
        self._slice = min(SLICE, batch_size)
        try:
            model = core().read_model(file)
            model.reshape([self._slice, image_size, image_size, 3])
            self.outputs = tuple(output.any_name for output in model.outputs)
            if SCORES in self.outputs:  # a gate's thresholds belong to its scores in FP32
                _first_in_whole_numbers(model)
            elif is_bf16(precision):
                options["INFERENCE_PRECISION_HINT"] = "bf16"
                _keep_in_fp32(model)
            self._model = core().compile_model(model, "CPU", options)
        except RuntimeError as error:
            raise BackendError(f"OpenVINO refuses {file}: {error}") from None
        # OpenVINO's bindings load numpy's interface on first use. If two threads did so at once, they would wait for
        # each other forever: one holds Python's lock, the other holds the bindings' own.
        _ = openvino.Tensor(np.zeros(1, np.uint8)).data
        self.concurrency = int(self._model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(self.concurrency):
            self._idle.put(self._model.create_infer_request())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def infer(self, images: Batch) -> tuple[Batch, ...]:
        n = len(images)
        results = [np.empty((n, *output.shape[1:]), output.element_type.to_dtype()) for output in self._model.outputs]
        running: deque[tuple[Any, int]] = deque()  # requests, and where their slices begin
        try:
            for start in range(0, n, self._slice):
                request = self._idle_one(running, results)
                given = images[start : start + self._slice]
                if len(given) < self._slice:
                    rest = self._slice - len(given)
                    given = np.concatenate([given, np.zeros((rest, *images.shape[1:]), np.uint8)])
                running.append((request, start))
                request.start_async([given], share_inputs=True)
            while running:
                self._idle.put(_finished(running, results))
        finally:
            for request, _ in running:  # after an error
                with suppress(RuntimeError):
                    request.wait()
                self._idle.put(request)
        return tuple(results)

    def _idle_one(self, running: deque[tuple[Any, int]], results: list[Batch]) -> Any:
        """A request that does nothing. If there is none, wait for the first of one's own, or for another thread's."""
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            return _finished(running, results) if running else self._idle.get()


def _finished(running: deque[tuple[Any, int]], results: list[Batch]) -> Any:
    """Wait for the first of these requests, copy its results to their places, and return it."""
    request, start = running[0]
    request.wait()
    for i, result in enumerate(results):
        made = request.get_output_tensor(i).data
        place = result[start : start + len(made)]
        place[:] = made[: len(place)]
    running.popleft()
    return request


class SureRunner:
    """A classifier in BF16 that computes an image again in FP32 if its two most likely classes lie close together.

    What an image gets depends on that image alone, not on those that came with it.
    """

    device_id: int | None = None

    def __init__(self, quick: OpenVINORunner, exact: OpenVINORunner) -> None:
        self._quick, self._exact = quick, exact
        self.concurrency = quick.concurrency
        self._which = quick.outputs.index(PROBABILITIES)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def infer(self, images: Batch) -> tuple[Batch, ...]:
        outputs = self._quick.infer(images)
        best = np.partition(outputs[self._which], -2, axis=1)[:, -2:]
        unsure = np.flatnonzero(best[:, 1] - best[:, 0] < UNSURE)
        if len(unsure):
            for output, exact in zip(outputs, self._exact.infer(images[unsure]), strict=True):
                output[unsure] = exact
        return outputs
