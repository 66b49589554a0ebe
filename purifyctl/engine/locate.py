"""Where in a network an engine begins to differ from FP32: for engines whose results differ more than they should."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from purifyctl.config import REFERENCE_BACKENDS, EnginePrecision
from purifyctl.engine.backends import open_runner, to_host
from purifyctl.photographs import Pixels

# The largest difference of a layer's output, relative to its largest value, that is still normal.
BOUNDS: dict[EnginePrecision, float] = {"fp32": 1e-4, "fp16": 5e-3, "bf16": 4e-2, "int8": 4e-2, "int8-bf16": 4e-2}


@dataclass(frozen=True)
class Layer:
    """How far one layer's output lies from that of ONNX Runtime in FP32."""

    name: str
    kind: str  # ONNX operator
    difference: float  # the largest absolute difference, relative to the largest value


def compare_layers(
    reference: Path,
    built: Path,
    images: Pixels,
    *,
    backend: str,
    precision: EnginePrecision,
) -> list[Layer]:
    """Compare every layer that both graphs name, in order of execution.

    A library cannot fuse layers if it has to give the results of all. Differences that come from fusing do not show.

    Parameters
    ----------
    reference
        The FP32 graph (ONNX), after the same rewrites.
    built
        The graph (ONNX) that the engine runs, or from which its plan was made: plans do not show layers.
    images
        RGB uint8 [n, size, size, 3].
    """
    n, size = len(images), images.shape[1]
    graphs = [onnx.load(file) for file in (reference, built)]
    kinds, others = (_layers(graph) for graph in graphs)
    shared = [name for name in kinds if name in others]
    if not shared:
        return []
    values = []
    with tempfile.TemporaryDirectory() as folder:
        which: tuple[tuple[str, EnginePrecision], ...] = ((REFERENCE_BACKENDS["onnx"], "fp32"), (backend, precision))
        for i, (graph, (runs_it, kind)) in enumerate(zip(graphs, which, strict=True)):
            file = Path(folder) / f"{i}.onnx"
            _expose(graph, shared, file)
            with open_runner(runs_it, file, precision=kind, image_size=size, batch_size=n) as runner:
                values.append([to_host(output) for output in runner.infer(images)][-len(shared) :])
    return [
        Layer(name, kinds[name], _relative(expected, made))
        for name, expected, made in zip(shared, *values, strict=True)
    ]


def describe_layers(layers: Sequence[Layer], precision: EnginePrecision) -> str:
    """The first layer beyond the precision's bound, and the one that differs most, in words."""
    if not layers:
        return "the graphs name no layer alike"
    bound = BOUNDS[precision]
    worst = max(layers, key=lambda layer: layer.difference)
    first = next((layer for layer in layers if not layer.difference <= bound), None)  # not <=: NaN is beyond it, too
    most = f"most: {worst.name} ({worst.kind}), {worst.difference:.2g} of its largest value"
    if first is None:
        return f"none of {len(layers)} layers differs by more than {bound:g} of its largest value; {most}"
    begins = f"{first.name} ({first.kind}), {first.difference:.2g}"
    return f"the first of {len(layers)} layers beyond {bound:g}: {begins}; {most}"


def _layers(graph: onnx.ModelProto) -> dict[str, str]:
    """The floating-point results that have a row per image: name and operator, in order of execution."""
    batch = graph.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    results = {value.name for value in _inferred(graph).graph.value_info if _is_layer(value.type.tensor_type, batch)}
    return {
        name: node.op_type
        for node in graph.graph.node
        for name in node.output
        if name in results and node.op_type not in ("Cast", "Constant")
    }


def _is_layer(kind: onnx.TypeProto.Tensor, batch: str) -> bool:
    floats = kind.elem_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    return floats and len(kind.shape.dim) > 1 and kind.shape.dim[0].dim_param == batch


def _inferred(graph: onnx.ModelProto) -> onnx.ModelProto:
    return onnx.shape_inference.infer_shapes(graph)


def _expose(graph: onnx.ModelProto, names: Sequence[str], file: Path) -> None:
    """Write the graph with these results as outputs, after its own outputs."""
    known = {value.name: value for value in _inferred(graph).graph.value_info}
    exposed = onnx.ModelProto()
    exposed.CopyFrom(graph)
    exposed.graph.output.extend(known[name] for name in names)
    onnx.save(exposed, file)


def _relative(expected: NDArray[Any], made: NDArray[Any]) -> float:
    largest = np.abs(expected.astype(np.float64)).max() or 1.0
    return float(np.abs(made.astype(np.float64) - expected).max() / largest)
