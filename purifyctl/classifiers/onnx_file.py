"""A classifier in an ONNX file: read, and checked, as a graph from images to logits for any batch."""

import warnings
from ast import literal_eval
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import onnx
import torch
from onnx import TensorProto, helper

from purifyctl.classifiers.answers import IMAGES, Answers, answers_of, first_line
from purifyctl.classifiers.onnx_net import SessionNet
from purifyctl.errors import ConfigError, WeightsError
from purifyctl.files import file_sha256

BATCH, OPSET, LOGITS = "batch", 18, "own_logits"
_EXPORT = "export it again with a free batch: torch.onnx.export(net, (x,), FILE, dynamic_shapes=({0: 'batch'},))"
_ONE_FILE = "put them into one: python -c \"import onnx; onnx.save(onnx.load('FILE'), 'one.onnx')\""
_LABEL_KEYS = ("names", "class_names", "classes", "labels", "id2label")


@dataclass(frozen=True)
class OnnxClassifier:
    """A classifier's graph, for any batch: normalised images of `size` -> logits [N, classes]."""

    file: Path
    sha256: str  # of the file
    model: onnx.ModelProto
    input: str
    nhwc: bool  # else NCHW
    half: bool  # takes FP16, else FP32
    grey_levels: bool  # its file takes uint8; this graph takes floats from 0 to 255
    size: tuple[int, int]  # pixels, (height, width)
    classes: int = 0
    probabilities: bool = False  # the file's output; in this graph it is undone
    class_names: Any = None  # of the file's metadata: a list or a dictionary; None: it has none

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        return self  # nothing in it changes


def read_onnx(file: Path, asked: tuple[int, int] | None) -> OnnxClassifier:
    """Read a classifier's graph.

    Parameters
    ----------
    asked
        Pixels, (height, width), for a file that leaves them open.

    Raises
    ------
    ConfigError
        The file says another size, or none, and none is asked for.
    WeightsError
        It cannot be read, keeps weights in other files, or is no classifier.
    """
    model = _load(file)
    image = _image_input(model, file)
    kind = image.type.tensor_type
    sides = [d.dim_value if d.HasField("dim_value") and d.dim_value > 0 else None for d in kind.shape.dim]
    nhwc = sides[3] == 3 and sides[1] != 3
    height, width = sides[1:3] if nhwc else sides[2:]
    if asked is None and (height is None or width is None):
        raise ConfigError(f"{file} takes images of any size.", hint="say which: --input-size 224")
    size = (height or (asked or (0, 0))[0], width or (asked or (0, 0))[1])
    if asked not in (None, size):
        raise ConfigError(
            f"{file} takes images of {size[0]}x{size[1]} pixels.", hint="leave out --input-size, or export it again"
        )
    grey_levels = kind.elem_type == TensorProto.UINT8
    if grey_levels:
        _take_floats(model, image, file)
    graph = OnnxClassifier(
        file=file,
        sha256=file_sha256(file),
        model=model,
        input=image.name,
        nhwc=nhwc,
        half=kind.elem_type == TensorProto.FLOAT16,
        grey_levels=grey_levels,
        size=size,
        class_names=_class_names(model),
    )
    graph = _for_any_batch(graph, sides[0])
    probe = torch.rand(IMAGES, 3, *size, generator=torch.Generator().manual_seed(0))
    return _with_logits(graph, answers_of(SessionNet(graph), probe, str(file)))


def _load(file: Path) -> onnx.ModelProto:
    if not file.is_file():
        raise WeightsError(f"There is no file {file}.", hint="check --classifier")
    try:
        model = onnx.load(file, load_external_data=False)
    except Exception as error:  # protobuf's own kinds
        raise WeightsError(f"{file} cannot be read as ONNX: {first_line(error)}", hint=_EXPORT) from None
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer):
        raise WeightsError(f"{file} keeps its weights in another file.", hint=_ONE_FILE)
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        raise WeightsError(f"{file} is no valid ONNX graph: {first_line(error)}", hint=_EXPORT) from None
    return model


def _image_input(model: onnx.ModelProto, file: Path) -> Any:
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise WeightsError(f"{file} has {len(inputs)} inputs ({names}); a classifier has one, the images.")
    kind = inputs[0].type.tensor_type
    sides = [d.dim_value or "?" for d in kind.shape.dim]
    if len(sides) != 4 or not (sides[1] in (3, "?") or sides[3] == 3):
        shown = ", ".join(map(str, sides))
        raise WeightsError(f"{file} takes [{shown}]; a classifier takes RGB images: [N, 3, H, W] or [N, H, W, 3].")
    if kind.elem_type not in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.UINT8):
        name = TensorProto.DataType.Name(kind.elem_type)
        raise WeightsError(f"{file} takes values of type {name}; a classifier takes FLOAT, FLOAT16 or UINT8.")
    return inputs[0]


def _take_floats(model: onnx.ModelProto, image: Any, file: Path) -> None:
    """Let a graph for uint8 take floats: TensorRT has uint8 only at a graph's ends, and it has no gradient."""
    if any(node.op_type != "Cast" for node in model.graph.node if image.name in node.input):
        raise WeightsError(f"{file} takes UINT8 and computes with it.", hint="export it for floats")
    image.type.tensor_type.elem_type = TensorProto.FLOAT


def _for_any_batch(graph: OnnxClassifier, fixed: int | None) -> OnnxClassifier:
    """The same for any batch, without aliases and foldable constants, at an operator set that every backend takes."""
    x = torch.rand(2 * (fixed or 2), 3, *graph.size, generator=torch.Generator().manual_seed(0))
    with _quiet():
        try:
            expected = torch.cat([_first(SessionNet(graph)(part)) for part in torch.split(x, fixed or len(x))])
        except Exception as error:  # ONNX Runtime has its own kinds
            raise WeightsError(f"{graph.file} does not run in ONNX Runtime: {first_line(error)}") from None
        try:
            made = replace(graph, model=_tidied(graph.model))
            found = _first(SessionNet(made)(x))
        except Exception as error:
            why = f"takes batches of {fixed} alone" if fixed else "cannot be brought up to date"
            raise WeightsError(f"{graph.file} {why}: {first_line(error)}", hint=_EXPORT) from None
    bound = 1e-3 * max(1.0, float(expected.abs().max()))
    if found.shape != expected.shape or not torch.allclose(found, expected, rtol=0, atol=bound, equal_nan=True):
        raise WeightsError(f"{graph.file} computes something else in batches of {len(x)}.", hint=_EXPORT)
    return made


def _tidied(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxscript.optimizer

    made = onnx.ModelProto()
    made.CopyFrom(model)
    weights = {tensor.name for tensor in made.graph.initializer}
    for value in (*made.graph.input, *made.graph.output):
        if value.name not in weights and value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_param = BATCH
    del made.graph.value_info[:]  # shapes of the old batch
    made = onnxscript.optimizer.optimize(made)
    if next((e.version for e in made.opset_import if e.domain in ("", "ai.onnx")), OPSET) < OPSET:
        made = onnx.version_converter.convert_version(made, OPSET)
    return made


def _first(answer: Any) -> torch.Tensor:
    return answer if isinstance(answer, torch.Tensor) else next(iter(answer.values()))


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _with_logits(graph: OnnxClassifier, answers: Answers) -> OnnxClassifier:
    """The same with one output: logits [N, classes], in FP32."""
    model = onnx.ModelProto()
    model.CopyFrom(graph.model)
    name = answers.key if answers.key is not None else model.graph.output[0].name
    if answers.probabilities:
        last = next(node for node in model.graph.node if name in node.output)
        if last.op_type == "Softmax":  # what goes into it are logits
            name = last.input[0]
        else:
            model.graph.node.append(helper.make_node("Log", [name], [f"{LOGITS}_log"]))
            name = f"{LOGITS}_log"
    model.graph.node.append(helper.make_node("Flatten", [name], [f"{LOGITS}_flat"], axis=1))
    model.graph.node.append(helper.make_node("Cast", [f"{LOGITS}_flat"], [LOGITS], to=TensorProto.FLOAT))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, [BATCH, answers.classes]))
    return replace(graph, model=model, classes=answers.classes, probabilities=answers.probabilities)


def _class_names(model: onnx.ModelProto) -> Any:
    """Names in the file's metadata: as JSON, or as a Python literal, as Ultralytics writes them."""
    said = {entry.key: entry.value for entry in model.metadata_props}
    text = next((said[key] for key in _LABEL_KEYS if key in said), "")
    try:
        found = literal_eval(text)
    except (ValueError, SyntaxError):
        found = [part.strip() for part in text.split(",")] if "," in text else None
    return found if isinstance(found, list | tuple | dict) and found else None
