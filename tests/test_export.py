from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from purifyctl.config import NetworkConfig
from purifyctl.engine.backends import open_runner
from purifyctl.engine.backends.torch import TorchRunner
from purifyctl.engine.graphs import export_onnx, purifier_graph
from purifyctl.engine.rewrites import deconvs_as_conv3, fold_norms
from purifyctl.errors import BackendError
from purifyctl.images.synthetic import natural_images
from tests import tiny

UNET = NetworkConfig(kind="unet", width=4, depth=6)
NETWORKS = [tiny.NETWORK, NetworkConfig("redraw", width=8, depth=2, reduce=2), UNET]


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS, ids=lambda n: n.kind)
@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_an_exported_purifier_is_its_torch_reference_at_any_batch(
    network: NetworkConfig, backend: str, tmp_path: Path
) -> None:
    images = natural_images(5, 64)
    reference = TorchRunner(purifier_graph(tiny.purifier(network))).infer(images)[0]
    file = tmp_path / "purifier.onnx"
    passes = (fold_norms, deconvs_as_conv3) if backend == "openvino" else (fold_norms,)
    export_onnx(purifier_graph(tiny.purifier(network), passes=passes), file, 64)
    with open_runner(backend, file, precision="fp32", image_size=64, batch_size=5) as runner:
        for n in (1, 3, 5):
            (made,) = runner.infer(images[:n])
            assert made.dtype == np.uint8
            assert made.shape == (n, 64, 64, 3)
            assert np.abs(made.astype(int) - reference[:n]).max() <= 1
    assert np.abs(reference.astype(int) - images).max() > 3  # the purifier does something


def test_an_images_result_does_not_depend_on_how_many_came_with_it(tmp_path: Path) -> None:
    images = natural_images(4, 64)
    file = tmp_path / "purifier.onnx"
    export_onnx(purifier_graph(tiny.purifier()), file, 64)
    with open_runner("openvino", file, precision="fp32", image_size=64, batch_size=4) as runner:
        assert np.array_equal(runner.infer(images[:1])[0], runner.infer(images)[0][:1])


def test_an_fp16_graph_computes_in_fp16_and_takes_uint8(tmp_path: Path) -> None:
    file = tmp_path / "purifier.onnx"
    export_onnx(purifier_graph(tiny.purifier(), "fp16"), file, 64)
    graph = onnx.load(file).graph
    assert graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    weights = {t.data_type for t in graph.initializer if len(t.dims) == 4}
    assert weights == {onnx.TensorProto.FLOAT16}


@torch.no_grad()
def test_an_fp16_purifier_adds_its_correction_in_fp32_which_halves_its_difference_at_least() -> None:
    images, net = natural_images(4, 64), tiny.purifier()
    reference = purifier_graph(net).levels(torch.from_numpy(images))
    made = purifier_graph(net, "fp16").levels(torch.from_numpy(images))
    in_fp16 = torch.round(net.half()(torch.from_numpy(images).permute(0, 3, 1, 2).half() / 255).float() * 255)
    assert (made != reference).float().mean() < 0.5 * (in_fp16 != reference).float().mean()


def test_exporting_leaves_the_network_unchanged() -> None:
    net = tiny.purifier()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    purifier_graph(net, "fp16", passes=(fold_norms, deconvs_as_conv3))
    assert all(torch.equal(v, before[k]) and v.dtype == torch.float32 for k, v in net.state_dict().items())


def test_a_file_that_is_no_graph_is_refused_by_every_backend_on_the_cpu(tmp_path: Path) -> None:
    file = tmp_path / "bad.onnx"
    file.write_bytes(b"not a graph")
    for backend in ("onnxruntime", "openvino"):
        with pytest.raises(BackendError, match=r"bad\.onnx"):
            open_runner(backend, file, precision="fp32", image_size=64, batch_size=1)
