"""Plans of TensorRT for RTX are built on this machine for cards that it does not have."""

import ast
import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from purifyctl.engine.backends import LOCAL, library, open_runner, plan_builder, tensorrt, tensorrt_rtx
from purifyctl.engine.backends.tensorrt_api import build, run
from purifyctl.engine.backends.tensorrt_api import library as kept
from purifyctl.engine.backends.torch import TorchRunner
from purifyctl.engine.graphs import export_onnx
from purifyctl.engine.tensors import INPUT, OUTPUTS
from purifyctl.errors import BackendError, ConfigError
from purifyctl.images.synthetic import natural_images
from tests import tiny
from tests.gpu_graphs import BATCH, NETWORKS, check, graph, onnx_files

__all__ = ["onnx_files"]  # a fixture

CARDS = ("SM75", "SM80", "SM86", "SM89", "SM120")


def rtx_plan(file: Path, card: str) -> bytes:
    return tensorrt_rtx.build_plan(file, image_size=tiny.SIZE, batch_size=BATCH, target=card)


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_an_fp16_graph_on_a_cpu_is_its_torch_reference(network: str, onnx_files: dict[str, Path]) -> None:
    images = natural_images(2, tiny.SIZE)
    options = {"precision": "fp16", "image_size": tiny.SIZE, "batch_size": 2}
    with open_runner("onnxruntime", onnx_files[network], **options) as runner:
        made = runner.infer(images)
    check(made, TorchRunner(graph(network, "fp32")).infer(images))


def hashes(files: list[str]) -> list[str]:
    """SHA-256 of the plan of every graph for every card, in order."""
    return [hashlib.sha256(rtx_plan(Path(file), card)).hexdigest() for file in files for card in CARDS]


@pytest.mark.slow
def test_plans_for_five_card_generations_build_without_a_gpu_and_are_the_same_bytes_in_every_process(
    onnx_files: dict[str, Path],
) -> None:
    files = [str(file) for network, file in onnx_files.items() if network != "fused"]  # that one varies
    again = "import json, sys; from tests.test_tensorrt_build import hashes; print(json.dumps(hashes(sys.argv[1:])))"
    other = subprocess.run([sys.executable, "-c", again, *files], check=True, capture_output=True, text=True)
    here, there = hashes(files), json.loads(other.stdout)
    assert len(set(here)) == len(here) == len(there)
    for card, ours, theirs in zip(CARDS * len(files), here, there, strict=True):
        assert ours == theirs or card == "SM75"  # Turing's may differ (docs/adr/0008)


@pytest.mark.slow
@pytest.mark.parametrize(("card", "smallest"), [("SM75", 1), ("SM86", 16), (LOCAL, 16)])
def test_a_plan_is_for_one_batch_size_except_on_turing(
    card: str, smallest: int, onnx_files: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    drafted = []
    monkeypatch.setattr(tensorrt_rtx, "compile_plan", lambda draft, *_, **__: drafted.append(draft) or b"")
    tensorrt_rtx.build_plan(onnx_files["residual"], image_size=64, batch_size=16, target=card)
    profile = drafted[0].profile
    shapes = [tuple(shape) for shape in profile.get_shape(INPUT)]
    assert shapes == [(smallest, 64, 64, 3), (16, 64, 64, 3), (16, 64, 64, 3)]


@pytest.mark.parametrize("network", NETWORKS)
def test_the_runner_knows_every_output_of_every_graph_in_their_order(network: str) -> None:
    known = [name for name in OUTPUTS if name in graph(network, "fp16").outputs]
    assert known == list(graph(network, "fp16").outputs)


@pytest.mark.slow
@pytest.mark.parametrize("card", CARDS[1:])
def test_fp32_plans_build_where_the_card_has_fp32_products(card: str, tmp_path: Path) -> None:
    export_onnx(graph("classifier", "fp32"), tmp_path / "graph.onnx", tiny.SIZE)
    assert len(rtx_plan(tmp_path / "graph.onnx", card)) > 1000


@pytest.mark.slow
def test_what_the_builder_refuses_comes_with_its_reason_and_the_next_step(tmp_path: Path) -> None:
    export_onnx(graph("classifier", "fp32"), tmp_path / "graph.onnx", tiny.SIZE)
    with pytest.raises(BackendError, match="FP32 GEMM is not supported") as caught:
        rtx_plan(tmp_path / "graph.onnx", "SM75")
    assert "--target SM75" in caught.value.hint


@pytest.mark.parametrize(("flavour", "card"), [("tensorrt-rtx", "SM90"), ("tensorrt", "SM86")])
def test_a_card_that_cannot_be_built_for_is_refused(flavour: str, card: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=card):
        plan_builder(flavour).check_targets((card,))
    with pytest.raises(ConfigError, match=card):
        plan_builder(flavour).build_plan(tmp_path / "none.onnx", image_size=64, batch_size=1, target=card)


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "bad.onnx"
    file.write_bytes(b"not a graph")
    with pytest.raises(BackendError, match=r"bad\.onnx"):
        rtx_plan(file, "SM86")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_plan_without_a_gpu_says_what_to_do_instead(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="needs an NVIDIA GPU"):
        open_runner("tensorrt-rtx", tmp_path / "x.plan", precision="fp16", image_size=64, batch_size=1)


def test_a_cache_that_cannot_be_written_is_reported_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    kept.write(tmp_path / "file" / "x.kernels", b"kernels")
    assert "cannot be written" in " ".join(capsys.readouterr().err.split())
    kept.write(tmp_path / "new" / "x.kernels", b"kernels")
    assert kept.read(tmp_path / "new" / "x.kernels") == b"kernels"


# The library's class that each name in the modules holds.
CLASSES = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "parser": "OnnxParser",
    "self.data": "ITimingCache",
    "options": "IRuntimeConfig",
    "kernels": "IRuntimeCache",
    "made.config": "IBuilderConfig",
    "draft.builder": "Builder",
    "profile": "IOptimizationProfile",
    "runtime": "Runtime",
    "plan.engine": "ICudaEngine",
    "self._engine": "ICudaEngine",
    "self._context": "IExecutionContext",
}


def test_everything_that_is_used_of_the_library_exists_in_it() -> None:
    """Running needs a GPU; a misspelt name does not have to wait for one."""
    trt = library("tensorrt-rtx")
    trees = [ast.parse(Path(module.__file__).read_text()) for module in (tensorrt, tensorrt_rtx, build, run, kept)]
    used = {ast.unparse(node) for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found = set()
    for name in sorted(used):
        owner, attribute = name.rsplit(".", 1)
        if owner in CLASSES:
            assert hasattr(getattr(trt, CLASSES[owner]), attribute), name
            found.add(owner)
        elif "trt" in (parts := name.split("."))[:-1]:
            value = trt
            for part in parts[parts.index("trt") + 1 :]:
                value = getattr(value, part)
    assert found == set(CLASSES)
