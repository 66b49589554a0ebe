from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from purifyctl.config import NetworkConfig
from purifyctl.engine.graphs import export_onnx, purifier_graph
from purifyctl.engine.locate import BOUNDS, Layer, compare_layers, describe_layers
from purifyctl.engine.rewrites import fold_norms
from purifyctl.images.synthetic import natural_images
from tests import tiny

IMAGES = natural_images(2, tiny.SIZE)


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    file = tmp_path / "reference.onnx"
    export_onnx(purifier_graph(tiny.purifier()), file, tiny.SIZE)
    return file


def test_the_first_layer_that_differs_is_the_one_whose_weights_were_changed(reference: Path, tmp_path: Path) -> None:
    graph = onnx.load(reference)
    convolutions = [node for node in graph.graph.node if node.op_type == "Conv"]
    changed = convolutions[2]
    weights = next(tensor for tensor in graph.graph.initializer if tensor.name == changed.input[1])
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1.1), weights.name))
    built = tmp_path / "built.onnx"
    onnx.save(graph, built)
    layers = compare_layers(reference, built, IMAGES, backend="onnxruntime", precision="fp32")
    assert next(layer for layer in layers if layer.difference > BOUNDS["fp32"]).name == changed.output[0]
    assert f"beyond 0.0001: {changed.output[0]} (Conv)" in describe_layers(layers, "fp32")


@pytest.mark.slow
@pytest.mark.parametrize("network", [tiny.NETWORK, NetworkConfig("unet", 4, 6)], ids=lambda n: n.kind)
def test_graphs_of_another_precision_or_library_share_their_layers_names(
    network: NetworkConfig, tmp_path: Path
) -> None:
    files = {}
    for precision in ("fp32", "fp16"):
        files[precision] = tmp_path / f"{precision}.onnx"
        export_onnx(
            purifier_graph(tiny.purifier(network), precision, passes=(fold_norms,)), files[precision], tiny.SIZE
        )
    for precision, backend in (("fp16", "onnxruntime"), ("fp32", "openvino")):
        layers = compare_layers(files["fp32"], files[precision], IMAGES, backend=backend, precision=precision)
        assert sum(layer.kind in ("Conv", "ConvTranspose") for layer in layers) >= 5
        assert max(layer.difference for layer in layers) < 10 * BOUNDS[precision]
        assert (max(layer.difference for layer in layers) > 0) or precision == "fp32"


def test_a_layer_of_nan_is_beyond_every_bound() -> None:
    layers = [Layer("one", "Conv", 0.0), Layer("two", "Relu", float("nan"))]
    assert "two (Relu)" in describe_layers(layers, "bf16")
