from pathlib import Path

import numpy as np
import onnx
import pytest

from purifyctl.config import NetworkConfig
from purifyctl.engine.backends import implementation, open_runner, tensorrt_rtx
from purifyctl.engine.backends.torch import TorchRunner
from purifyctl.engine.graphs import FusedGraph, Graph, classifier_graph, export_onnx, purifier_graph
from purifyctl.engine.quantize import KINDS, quantize_purifier
from purifyctl.images.synthetic import natural_images
from tests import tiny

IMAGES = natural_images(8, tiny.SIZE)
UNET = NetworkConfig("unet", 4, 6)


def quantised(graph: Graph, folder: Path, *, symmetric: bool = False) -> Path:
    file = folder / "graph.onnx"
    export_onnx(graph, file, tiny.SIZE)
    quantize_purifier(file, IMAGES, symmetric=symmetric)
    return file


def in_integers(file: Path) -> list[bool]:
    """Whether the inputs of each convolution, in order, come out of DequantizeLinear."""
    graph = onnx.load(file).graph
    made_by = {name: node.op_type for node in graph.node for name in node.output}
    return [
        all(made_by.get(name) == "DequantizeLinear" for name in node.input[:2])
        for node in graph.node
        if node.op_type in KINDS
    ]


@pytest.mark.slow
@pytest.mark.parametrize("network", [tiny.NETWORK, UNET], ids=lambda n: n.kind)
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_a_quantised_purifier_stays_near_its_reference_and_keeps_its_ends_in_floats(
    network: NetworkConfig, backend: str, tmp_path: Path
) -> None:
    graph = purifier_graph(tiny.purifier(network), passes=implementation(backend).rewrites("int8"))
    file = quantised(graph, tmp_path)
    first, *inner, last = in_integers(file)
    assert all(inner)
    assert [first, last] == [False, False]
    (reference,) = TorchRunner(graph).infer(IMAGES)
    with open_runner(backend, file, precision="int8", image_size=tiny.SIZE, batch_size=8) as runner:
        (made,) = runner.infer(IMAGES)
    difference = np.abs(made.astype(int) - reference)
    assert 0 < difference.mean() < 1
    assert difference.max() < 32


@pytest.mark.slow
def test_only_the_purifier_of_a_fused_graph_is_quantised(tmp_path: Path) -> None:
    purify, classify = purifier_graph(tiny.purifier()), classifier_graph(tiny.classifier())
    together = in_integers(quantised(FusedGraph(purify, classify), tmp_path))
    alone = in_integers(quantised(purify, tmp_path))
    assert together == [*alone, False, False]  # the classifier has two convolutions


@pytest.mark.slow
@pytest.mark.parametrize("card", ["SM75", "SM86", "SM120"])
def test_a_symmetric_graph_builds_for_tensorrt(card: str, tmp_path: Path) -> None:
    file = quantised(purifier_graph(tiny.purifier()), tmp_path, symmetric=True)
    plan = tensorrt_rtx.build_plan(file, image_size=tiny.SIZE, batch_size=2, target=card)
    assert len(plan) > 1000
