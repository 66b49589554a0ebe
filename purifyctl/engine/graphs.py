"""Torch networks to typed graphs, as ONNX or as programs of torch: RGB uint8 NHWC in, finished results out.

Everything between a file's pixels and a result is inside the graph: scaling, normalisation, crop, softmax, rounding to
8 bits. No caller can apply the wrong preprocessing. Precision is a property of the graph: an FP16 graph has FP16
weights and activations, whatever runs it.
"""

import copy
import io
import logging
import warnings
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from purifyctl.classifiers import Classifier, OnnxClassifier, as_graph_input
from purifyctl.config import BACKENDS, DEFAULT_BACKEND, GPU_BACKENDS
from purifyctl.engine.joined import join
from purifyctl.engine.rewrites import Pass, fold_norms
from purifyctl.engine.tensors import INPUT, OWN_INPUT, PROBABILITIES, PURIFIED, SCORES
from purifyctl.errors import ConfigError

OPSET = 18

Precision = Literal["fp32", "fp16"]
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


class PurifierGraph(nn.Module):
    """RGB uint8 [N, H, W, 3] -> purified RGB uint8 [N, H, W, 3]."""

    outputs = (PURIFIED,)

    def __init__(self, purifier: nn.Module, precision: Precision = "fp32") -> None:
        super().__init__()
        self.purifier = purifier.to(_DTYPES[precision])

    def forward(self, images: Tensor) -> Tensor:
        return _to_pixels(self.levels(images))

    def levels(self, images: Tensor) -> Tensor:
        """The purified image in whole grey levels 0 to 255, float32 NCHW."""
        x_pur = self.purifier(_from_pixels(images, torch.float32))  # its ends are FP32 in any precision
        return torch.round(torch.clamp(x_pur * 255, 0, 255))


class ClassifierGraph(nn.Module):
    """RGB uint8 [N, H, W, 3] -> class probabilities, float32 [N, classes]."""

    outputs = (PROBABILITIES,)

    def __init__(self, classifier: nn.Module, precision: Precision = "fp32") -> None:
        super().__init__()
        self.precision = precision
        self.own: OnnxClassifier | None = getattr(classifier, "graph", None)  # whose typing is done when it is joined
        self.dtype = _DTYPES["fp32" if self.own else precision]
        self.classifier = classifier.to(self.dtype)

    def forward(self, images: Tensor) -> Tensor:
        return self.probabilities(_from_pixels(images, self.dtype))

    def probabilities(self, x: Tensor) -> Tensor:
        """Class probabilities of RGB NCHW in [0, 1]."""
        return torch.softmax(self.classifier(x).float(), dim=1)  # float: FP16 softmax loses small probabilities


class FusedGraph(nn.Module):
    """RGB uint8 [N, H, W, 3] -> purified RGB uint8 [N, H, W, 3], and the class probabilities of the purified images.

    The classifier sees the rounded image, as it does if the two graphs run one after the other.
    """

    outputs = (PURIFIED, PROBABILITIES)

    def __init__(self, purifier: PurifierGraph, classifier: ClassifierGraph) -> None:
        super().__init__()
        self.purifier, self.classifier = purifier, classifier

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        levels = self.purifier.levels(images)  # not through uint8: TensorRT has it only at a graph's ends
        x_pur = levels.to(self.classifier.dtype) / 255
        return _to_pixels(levels), self.classifier.probabilities(x_pur)


class Front(nn.Module):
    """What comes before a classifier's own ONNX graph, for export: RGB uint8 [N, H, W, 3] -> what that graph takes.

    Behind a purifier: also the purified RGB uint8 [N, H, W, 3].
    """

    def __init__(self, graph: "ClassifierGraph | FusedGraph") -> None:
        super().__init__()
        self.purifier = graph.purifier if isinstance(graph, FusedGraph) else None
        self.classify = graph.classifier if isinstance(graph, FusedGraph) else graph
        self.outputs = (OWN_INPUT,) if self.purifier is None else (PURIFIED, OWN_INPUT)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        own, classifier = self.classify.own, self.classify.classifier
        assert own is not None
        assert isinstance(classifier, Classifier)
        if self.purifier is None:
            return as_graph_input(own, classifier.prepare(_from_pixels(images, torch.float32)))
        levels = self.purifier.levels(images)
        return _to_pixels(levels), as_graph_input(own, classifier.prepare(levels / 255))


class GateGraph(nn.Module):
    """RGB uint8 [N, H, W, 3] -> scores, float32 [N]: how likely each image was attacked, if half of all images are."""

    outputs = (SCORES,)

    def __init__(self, gate: nn.Module, precision: Precision = "fp32") -> None:
        super().__init__()
        self.gate = gate.to(_DTYPES[precision])

    def forward(self, images: Tensor) -> Tensor:
        return torch.sigmoid(self.gate(_from_pixels(images, torch.float32)).float())


Graph = PurifierGraph | ClassifierGraph | FusedGraph | GateGraph


def _from_pixels(images: Tensor, dtype: torch.dtype) -> Tensor:
    return images.to(dtype).permute(0, 3, 1, 2) / 255  # cast first: TensorRT takes uint8 only there


def _to_pixels(levels: Tensor) -> Tensor:
    return levels.permute(0, 2, 3, 1).to(torch.uint8)  # cast last, for the same reason


def purifier_graph(purifier: nn.Module, precision: Precision = "fp32", *, passes: Sequence[Pass] = ()) -> PurifierGraph:
    """A purifier, rewritten by `passes` in turn, ready for export or for use as the reference.

    The network passed in does not change.
    """
    net = copy.deepcopy(purifier).eval()
    for rewrite in passes:
        net = rewrite(net)
    return PurifierGraph(net, precision).eval()


def classifier_graph(classifier: nn.Module, precision: Precision = "fp32") -> ClassifierGraph:
    """A classifier ready for export or for use as the reference. The network passed in does not change."""
    return ClassifierGraph(copy.deepcopy(classifier).eval(), precision).eval()


def gate_graph(gate: nn.Module, precision: Precision = "fp32") -> GateGraph:
    """A gate ready for export or for use as the reference, its norms folded. The network passed in does not change."""
    return GateGraph(fold_norms(gate), precision).eval()


def count_multiply_adds(graph: nn.Module, image_size: int) -> int:
    """Multiplications, each with an addition, that `graph` needs for one square image of `image_size` pixels."""
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        graph(torch.zeros(1, image_size, image_size, 3, dtype=torch.uint8))
    return int(counter.get_total_flops()) // 2


def export_onnx(graph: Graph, path: Path, image_size: int) -> None:
    """Write `graph` as one ONNX file with a dynamic batch, for square images of `image_size` pixels.

    A classifier that is an ONNX graph stays that graph: it is joined to what comes before and after it.
    """
    classify = graph.classifier if isinstance(graph, FusedGraph) else graph
    if isinstance(classify, ClassifierGraph) and classify.own is not None:
        assert isinstance(graph, FusedGraph | ClassifierGraph)
        _export(Front(graph).eval(), path, image_size)
        join(path, classify.own, classify.precision)
    else:
        _export(graph, path, image_size)


def export_program(graph: Graph, path: Path, image_size: int) -> None:
    """Write `graph` as a program of `torch.export` with a dynamic batch, for square images of `image_size` pixels.

    Raises
    ------
    ConfigError
        The classifier is an ONNX graph, which torch does not run.
    """
    classify = graph.classifier if isinstance(graph, FusedGraph) else graph
    if isinstance(classify, ClassifierGraph) and classify.own is not None:
        gpus = [name for name in GPU_BACKENDS if BACKENDS[name].graph == "onnx"]
        raise ConfigError(
            "torch does not run a classifier that is an ONNX file.",
            hint=f"choose another --backend: {DEFAULT_BACKEND}, or on a GPU {' or '.join(gpus)}",
        )
    example, shapes = _example(image_size)
    torch.export.save(torch.export.export(graph, example, dynamic_shapes=shapes), path)


def _example(image_size: int) -> tuple[tuple[Tensor], tuple[dict[int, Any]]]:
    """What exporters trace a graph with, and which of its sizes are free."""
    example = torch.zeros(2, image_size, image_size, 3, dtype=torch.uint8)
    return (example,), ({0: torch.export.Dim("batch", min=1, max=4096)},)


def _export(graph: Graph | Front, path: Path, image_size: int) -> None:
    example, shapes = _example(image_size)
    # The exporter logs its progress, and functions that it does not need.
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "torch.export")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(
                graph,
                example,
                str(path),
                input_names=[INPUT],
                output_names=list(graph.outputs),
                dynamic_shapes=shapes,
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
