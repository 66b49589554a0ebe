"""TensorRT. Plans are built here for cards that are not; what runs them is marked `gpu`."""

import ast
import hashlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from purifyctl.config import EngineConfig, NetworkConfig
from purifyctl.engine.backends import open_runner, tensorrt, to_host
from purifyctl.engine.backends.tensorrt import TensorRTRunner, build_plan
from purifyctl.engine.backends.torch import TorchRunner
from purifyctl.engine.build import build_engine
from purifyctl.engine.graphs import FusedGraph, Precision, classifier_graph, export_onnx, gate_graph, purifier_graph
from purifyctl.errors import BackendError, ConfigError
from purifyctl.images.synthetic import natural_images
from purifyctl.nn.gate import GateNetwork
from purifyctl.run.job import run
from tests import tiny

CARDS = ("SM75", "SM80", "SM86", "SM89", "SM120")
NETWORKS = ("residual", "unet", "classifier", "fused", "gate")
BATCH = 4


def graph(network: str, precision: Precision) -> nn.Module:
    if network == "classifier":
        return classifier_graph(tiny.classifier(), precision)
    if network == "gate":
        torch.manual_seed(0)
        return gate_graph(GateNetwork(width=6).eval(), precision)
    if network == "fused":
        return FusedGraph(graph("residual", precision), graph("classifier", precision))
    unet = NetworkConfig(kind="unet", width=4, depth=6)
    return purifier_graph(tiny.purifier(unet if network == "unet" else tiny.NETWORK), precision)


@pytest.fixture(scope="module")
def onnx_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every network in FP16. Read only."""
    folder = tmp_path_factory.mktemp("onnx")
    for network in NETWORKS:
        export_onnx(graph(network, "fp16"), folder / f"{network}.onnx", tiny.SIZE)
    return {network: folder / f"{network}.onnx" for network in NETWORKS}


def rtx_plan(file: Path, card: str) -> bytes:
    return build_plan(file, flavour="tensorrt-rtx", image_size=tiny.SIZE, batch_size=BATCH, target=card)


@pytest.mark.parametrize("network", NETWORKS)
def test_an_fp16_graph_on_a_cpu_is_its_torch_reference(network: str, onnx_files: dict[str, Path]) -> None:
    images = natural_images(2, tiny.SIZE)
    options = {"precision": "fp16", "image_size": tiny.SIZE, "batch_size": 2}
    with open_runner("onnxruntime", onnx_files[network], **options) as runner:
        made = runner.infer(images)
    check(made, TorchRunner(graph(network, "fp32")).infer(images))


def check(made: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> None:
    """FP16 lies within 2 grey levels or a hundredth of a probability of FP32."""
    for output, wanted in zip(made, reference, strict=True):
        assert output.shape == wanted.shape
        assert output.dtype == wanted.dtype
        assert np.abs(output.astype(float) - wanted).max() <= (2 if wanted.dtype == np.uint8 else 0.01)


def hashes(files: list[str]) -> list[str]:
    """Of the plans of every graph for every card, in order."""
    return [hashlib.sha256(rtx_plan(Path(file), card)).hexdigest() for file in files for card in CARDS]


def test_plans_for_five_card_generations_build_without_a_gpu_and_are_the_same_bytes_in_every_process(
    onnx_files: dict[str, Path],
) -> None:
    files = [str(file) for network, file in onnx_files.items() if network != "fused"]  # that one varies
    again = "import json, sys; from tests.test_tensorrt import hashes; print(json.dumps(hashes(sys.argv[1:])))"
    other = subprocess.run([sys.executable, "-c", again, *files], check=True, capture_output=True, text=True)
    here, there = hashes(files), json.loads(other.stdout)
    assert len(set(here)) == len(here) == len(there)
    for card, ours, theirs in zip(CARDS * len(files), here, there, strict=True):
        assert ours == theirs or card == "SM75"  # Turing's may differ (docs/adr/0008)


@pytest.mark.parametrize(("card", "smallest"), [("SM75", 1), ("SM86", 16), (None, 16)])
def test_a_plan_is_for_one_batch_size_but_on_turing(card: str | None, smallest: int) -> None:
    trt = tensorrt.library("tensorrt-rtx")
    profile = tensorrt._profile(trt.Builder(tensorrt._logger("tensorrt-rtx")), 64, 16, card)
    shapes = [tuple(shape) for shape in profile.get_shape(tensorrt.INPUT)]
    assert shapes == [(smallest, 64, 64, 3), (16, 64, 64, 3), (16, 64, 64, 3)]


@pytest.mark.parametrize("network", NETWORKS)
def test_the_runner_knows_every_output_of_every_graph_in_their_order(network: str) -> None:
    known = [name for name in tensorrt.OUTPUTS if name in graph(network, "fp16").outputs]
    assert known == list(graph(network, "fp16").outputs)


@pytest.mark.parametrize("card", CARDS[1:])
def test_fp32_plans_build_where_the_card_has_fp32_products(card: str, tmp_path: Path) -> None:
    export_onnx(graph("classifier", "fp32"), tmp_path / "graph.onnx", tiny.SIZE)
    assert len(rtx_plan(tmp_path / "graph.onnx", card)) > 1000


def test_what_the_builder_refuses_comes_with_its_reason_and_the_next_step(tmp_path: Path) -> None:
    export_onnx(graph("classifier", "fp32"), tmp_path / "graph.onnx", tiny.SIZE)
    with pytest.raises(BackendError, match="FP32 GEMM is not supported") as caught:
        rtx_plan(tmp_path / "graph.onnx", "SM75")
    assert "--target SM75" in caught.value.hint


@pytest.mark.parametrize(("flavour", "card"), [("tensorrt-rtx", "SM90"), ("tensorrt", "SM86")])
def test_a_card_that_cannot_be_built_for_is_refused(flavour: str, card: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=card):
        tensorrt.check_targets(flavour, [card])
    with pytest.raises(ConfigError, match=card):
        build_plan(tmp_path / "none.onnx", flavour=flavour, image_size=64, batch_size=1, target=card)


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "bad.onnx"
    file.write_bytes(b"not a graph")
    with pytest.raises(BackendError, match=r"bad\.onnx"):
        rtx_plan(file, "SM86")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_plan_without_a_gpu_says_what_to_do_instead(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="needs an NVIDIA GPU"):
        open_runner("tensorrt-rtx", tmp_path / "x.plan", precision="fp16", image_size=64, batch_size=1)


def test_a_cache_that_cannot_be_written_is_said_and_stops_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    tensorrt._keep(tmp_path / "file" / "x.kernels", b"kernels")
    assert "cannot be written" in " ".join(capsys.readouterr().err.split())
    tensorrt._keep(tmp_path / "new" / "x.kernels", b"kernels")
    assert tensorrt._read(tmp_path / "new" / "x.kernels") == b"kernels"


# What the names in tensorrt.py hold.
CLASSES = {
    "builder": "Builder",
    "config": "IBuilderConfig",
    "profile": "IOptimizationProfile",
    "parser": "OnnxParser",
    "timings": "ITimingCache",
    "options": "IRuntimeConfig",
    "kernels": "IRuntimeCache",
    "self._runtime": "Runtime",
    "self._engine": "ICudaEngine",
    "self._context": "IExecutionContext",
}


def test_everything_that_is_used_of_the_library_exists_in_it() -> None:
    """Running needs a GPU; a misspelt name does not have to wait for one."""
    trt = tensorrt.library("tensorrt-rtx")
    tree = ast.parse(Path(tensorrt.__file__).read_text())
    used = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    found = set()
    for name in sorted(used):
        owner, attribute = name.rsplit(".", 1)
        if owner in CLASSES:
            assert hasattr(getattr(trt, CLASSES[owner]), attribute), name
            found.add(owner)
        elif owner.split(".")[0] == "trt":
            value = trt
            for part in name.split(".")[1:]:
                value = getattr(value, part)
    assert found == set(CLASSES)


# From here on a GPU is needed.


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def flavour(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A flavour that is installed and knows the GPU here. Its caches start empty."""
    major, minor = torch.cuda.get_device_capability()
    if not importlib.util.find_spec(request.param.replace("-", "_")):
        pytest.skip(f"{request.param} is not installed")
    if request.param == "tensorrt-rtx" and f"SM{major}{minor}" not in tensorrt.targets(request.param):
        pytest.skip(f"tensorrt-rtx does not know SM{major}{minor}")
    monkeypatch.setenv("PURIFYCTL_CACHE", str(tmp_path / "cache"))
    return request.param


@pytest.fixture
def plan(flavour: str, onnx_files: dict[str, Path], tmp_path: Path) -> Path:
    """The residual purifier for the GPU here."""
    return local_plan(flavour, onnx_files["residual"], tmp_path)


def local_plan(flavour: str, onnx_file: Path, folder: Path) -> Path:
    file = folder / f"{onnx_file.stem}.plan"
    file.write_bytes(build_plan(onnx_file, flavour=flavour, image_size=tiny.SIZE, batch_size=BATCH))
    return file


@pytest.fixture
def runner(plan: Path, flavour: str) -> Iterator[TensorRTRunner]:
    with TensorRTRunner(plan, flavour=flavour) as opened:
        yield opened


@tiny.needs_gpu
@pytest.mark.parametrize("network", NETWORKS)
def test_a_plan_is_its_torch_reference_at_every_batch(
    network: str, flavour: str, onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    images = natural_images(BATCH, tiny.SIZE)
    reference = TorchRunner(graph(network, "fp32")).infer(images)
    with TensorRTRunner(local_plan(flavour, onnx_files[network], tmp_path), flavour=flavour) as runner:
        full = [to_host(output) for output in runner.infer(images)]
        check(full, reference)
        for n in (1, BATCH - 1):
            for output, wanted in zip(runner.infer(images[:n]), full, strict=True):
                assert np.array_equal(to_host(output), wanted[:n])


@tiny.needs_gpu
def test_a_full_batch_on_the_gpu_is_used_where_it_is(plan: Path, flavour: str) -> None:
    batch = torch.from_numpy(natural_images(BATCH, tiny.SIZE)).cuda()
    with TensorRTRunner(plan, flavour=flavour, cuda_graph=False) as runner:
        runner.infer(batch)
        assert runner._context.get_tensor_address(tensorrt.INPUT) == batch.data_ptr()
        runner.infer(batch[1:])  # padded
        assert runner._context.get_tensor_address(tensorrt.INPUT) != batch[1:].data_ptr()


@tiny.needs_gpu
def test_a_cuda_graph_gives_what_plain_launches_give(runner: TensorRTRunner, plan: Path, flavour: str) -> None:
    with TensorRTRunner(plan, flavour=flavour, cuda_graph=False) as plain:
        for seed in range(3):  # the first call may capture, the next ones replay
            images = np.roll(natural_images(BATCH, tiny.SIZE), seed, axis=1)
            assert torch.equal(runner.infer(images)[0], plain.infer(images)[0])


@tiny.needs_gpu
def test_results_survive_the_next_call(runner: TensorRTRunner) -> None:
    images = natural_images(BATCH, tiny.SIZE)
    (first,) = runner.infer(images)
    kept = first.clone()
    assert not torch.equal(runner.infer(255 - images)[0], kept)
    assert torch.equal(first, kept)


@tiny.needs_gpu
def test_threads_get_their_own_results(runner: TensorRTRunner) -> None:
    images = natural_images(BATCH, tiny.SIZE)
    batches = [np.roll(images, shift, axis=2) for shift in range(32)]
    expected = [to_host(runner.infer(batch)[0]) for batch in batches]
    with ThreadPoolExecutor(runner.concurrency) as pool:
        made = list(pool.map(lambda batch: to_host(runner.infer(batch)[0]), batches))
    assert all(map(np.array_equal, made, expected))


@tiny.needs_gpu
def test_a_batch_that_is_still_being_made_is_waited_for(runner: TensorRTRunner) -> None:
    images = torch.from_numpy(natural_images(BATCH, tiny.SIZE)).cuda()
    (expected,) = runner.infer(images)
    batch = torch.zeros_like(images)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(100_000_000)  # cycles: tens of milliseconds
        batch.copy_(images)
        assert torch.equal(runner.infer(batch)[0], expected)


@tiny.needs_gpu
def test_images_that_a_plan_does_not_take_are_refused(runner: TensorRTRunner) -> None:
    images = natural_images(BATCH + 1, tiny.SIZE)
    for wrong in (images, images[:0], images[:1, :32], images[:1].astype(np.float32)):
        with pytest.raises(ValueError, match="this plan takes"):
            runner.infer(wrong)


@tiny.needs_gpu
def test_a_file_that_is_no_plan_is_refused_with_the_next_step(flavour: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.plan"
    file.write_bytes(b"not a plan")
    with pytest.raises(BackendError, match=r"bad\.plan") as caught:
        TensorRTRunner(file, flavour=flavour)
    assert "build-engine" in caught.value.hint


@tiny.needs_gpu
def test_timings_and_kernels_are_kept_and_used_again(flavour: str, onnx_files: dict[str, Path], tmp_path: Path) -> None:
    images = natural_images(BATCH, tiny.SIZE)
    results = []
    for _ in range(2):
        plan = local_plan(flavour, onnx_files["residual"], tmp_path)
        with TensorRTRunner(plan, flavour=flavour) as runner:
            results.append(to_host(runner.infer(images)[0]))
        (kept,) = (tmp_path / "cache" / flavour).iterdir()
        assert kept.suffix == (".timings" if flavour == "tensorrt" else ".kernels")
        assert kept.stat().st_size > 0
    assert np.array_equal(*results)


@tiny.needs_gpu
def test_a_folder_goes_through_decoder_purifier_and_classifier_on_the_gpu(
    flavour: str, photos: Path, tmp_path: Path
) -> None:
    config = EngineConfig(
        backend=flavour,  # type: ignore[arg-type]
        precision="fp16",
        image_size=tiny.SIZE,
        batch_size=BATCH,
        targets=(tensorrt.capability(),) if flavour == "tensorrt-rtx" else (),
        classifier="tests.tiny:classifier",
    )
    bundle = build_engine(config, tiny.checkpoint(tmp_path / "run"), tmp_path / "bundle")
    result = run(photos, bundle, tmp_path / "out")
    assert result.exit_code == 0
    assert len(list((tmp_path / "out" / "images").rglob("*.png"))) == 10
