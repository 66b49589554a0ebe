"""8-bit integers inside a purifier's graph: explicit Q/DQ nodes around its convolutions, calibrated on photographs."""

import contextlib
import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static

from purifyctl.engine.tensors import INPUT, PURIFIED
from purifyctl.photographs import Pixels

KINDS = ("Conv", "ConvTranspose")


def quantize_purifier(file: Path, photographs: Pixels, *, symmetric: bool) -> None:
    """Quantise the purifier in an exported graph, in place: weights per channel, activations per tensor.

    The first and the last convolution stay in floating point: they touch the image itself, and the correction is only a
    few grey levels. A classifier in the same graph stays in floating point, too (docs/adr/0010).

    Parameters
    ----------
    photographs
        The ranges of activations come from them.
    symmetric
        Use signed activations around zero, which TensorRT needs. Otherwise each range has a zero of its own, which
        wastes no bit behind a ReLU. Biases stay in floating point in either case, as TensorRT needs them.
    """
    graph = onnx.load(file)
    inner = purifier_nodes(graph)[1][1:-1]
    others = [node.name for node in graph.graph.node if node.op_type in KINDS and node.name not in inner]
    kind = QuantType.QInt8 if symmetric else QuantType.QUInt8
    with _quiet():
        quantize_static(
            str(file),
            str(file),
            _Photographs(photographs),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(KINDS),
            nodes_to_exclude=others,
            per_channel=True,
            activation_type=kind,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True, "QuantizeBias": False},
        )


def purifier_nodes(graph: onnx.ModelProto) -> tuple[list[str], list[str]]:
    """Names of the operators that compute the purified image, and of the convolutions among them, in order."""
    made_by = {name: node for node in graph.graph.node for name in node.output}
    needed, left = set(), [PURIFIED]
    while left:
        node = made_by.get(left.pop())
        if node is not None and node.name not in needed:
            needed.add(node.name)
            left += node.input
    nodes = [node for node in graph.graph.node if node.name in needed]
    return [node.name for node in nodes], [node.name for node in nodes if node.op_type in KINDS]


class _Photographs(CalibrationDataReader):  # type: ignore[misc]
    """Gives one photograph after the other."""

    def __init__(self, photographs: Pixels) -> None:
        self._left = iter(photographs)

    def get_next(self) -> dict[str, Any] | None:
        photograph = next(self._left, None)
        return None if photograph is None else {INPUT: photograph[None]}


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the library: it recommends passes that the exporter has already made."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        root.setLevel(level)
