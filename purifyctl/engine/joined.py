"""A classifier's own ONNX graph, behind what we export: one graph from pixels to probabilities."""

import contextlib
import logging
import math
from pathlib import Path
from typing import Literal

import onnx
from onnx import helper

from purifyctl.classifiers import OnnxClassifier
from purifyctl.engine.tensors import OWN_INPUT, PROBABILITIES

_PREFIX = "own/"


def join(front: Path, own: OnnxClassifier, precision: Literal["fp32", "fp16"]) -> None:
    """Put a classifier's graph and a softmax behind the exported graph `front`, in place of its output `OWN_INPUT`.

    Its weights become FP16 if that is the precision; what it takes and gives stays as it was.
    """
    first, second = onnx.load(front), onnx.ModelProto()
    second.CopyFrom(own.model)
    if precision == "fp16" and not own.half:
        second = _in_half(second)
    for number, node in enumerate(second.graph.node):  # graphs may leave nodes unnamed; quantising needs names
        node.name = f"{number}_{node.op_type}"
    second = onnx.compose.add_prefix(second, _PREFIX)
    (logits,) = (value.name for value in second.graph.output)
    classes = second.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    opset = max(map(opset_of, (first, second)))
    first, second = (
        m if opset_of(m) == opset else onnx.version_converter.convert_version(m, opset) for m in (first, second)
    )
    first.ir_version = second.ir_version = max(first.ir_version, second.ir_version)
    kept = [value.name for value in first.graph.output if value.name != OWN_INPUT]
    made = onnx.compose.merge_models(first, second, io_map=[(OWN_INPUT, _PREFIX + own.input)], outputs=[*kept, logits])
    made.graph.node.append(helper.make_node("Softmax", [logits], [PROBABILITIES], name=_PREFIX + "softmax", axis=1))
    imported = {entry.domain: entry.version for entry in made.opset_import}
    del made.opset_import[:]  # both graphs' own, twice
    made.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in imported.items())
    batch = made.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    del made.graph.output[-1]
    made.graph.output.append(helper.make_tensor_value_info(PROBABILITIES, onnx.TensorProto.FLOAT, [batch, classes]))
    onnx.save(made, front)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a graph uses."""
    return max(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def _in_half(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    logger = logging.getLogger("onnxruntime.transformers.float16")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it tells of each weight that is too small for FP16
    try:
        made: onnx.ModelProto = convert_float_to_float16(model, keep_io_types=True)
        OnnxModel.graph_topological_sort(made.graph)  # it puts its casts at the end
    finally:
        logger.setLevel(level)
    return made


def count(own: OnnxClassifier) -> tuple[int, int]:
    """The parameters of a classifier's graph, and its multiplications with an addition for one image."""
    model = onnx.ModelProto()
    model.CopyFrom(own.model)
    for value in model.graph.input:
        for dim, side in zip(value.type.tensor_type.shape.dim, (1, *_sides(own)), strict=False):
            dim.dim_value = side
    with contextlib.suppress(onnx.shape_inference.InferenceError):
        model = onnx.shape_inference.infer_shapes(model)
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in model.graph.value_info}
    weights = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    shapes |= weights
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
    parameters = sum(math.prod(t.dims) for t in model.graph.initializer if t.data_type in floats)
    products = 0
    for node in model.graph.node:
        out = shapes.get(node.output[0], [])
        if node.op_type == "Conv":
            products += math.prod(out) * math.prod(weights.get(node.input[1], [0])[1:])
        elif node.op_type in ("Gemm", "MatMul"):
            inner = shapes.get(node.input[0], [0])
            transposed = any(a.name == "transA" and a.i for a in node.attribute)
            products += math.prod(out) * (inner[0] if transposed else inner[-1])
    return parameters, products


def _sides(own: OnnxClassifier) -> tuple[int, int, int]:
    height, width = own.size
    return (height, width, 3) if own.nhwc else (3, height, width)
