"""Plans of both TensorRT libraries run on the GPU of this machine."""

import importlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from purifyctl.config import BACKENDS, EngineConfig
from purifyctl.engine.backends import LOCAL, plan_builder, to_host
from purifyctl.engine.backends.tensorrt_api.run import PlanRunner
from purifyctl.engine.backends.torch import TorchRunner
from purifyctl.engine.build import build_engine
from purifyctl.engine.tensors import INPUT
from purifyctl.errors import BackendError
from purifyctl.images.synthetic import natural_images
from purifyctl.machine import gpu_capability
from purifyctl.run import run
from tests import tiny
from tests.tensorrt_graphs import BATCH, NETWORKS, check, graph, onnx_files

__all__ = ["onnx_files"]  # a fixture


def open_plan(plan: Path, flavour: str, *, cuda_graph: bool = True) -> PlanRunner:
    return importlib.import_module(BACKENDS[flavour].module).open_plan(plan, cuda_graph=cuda_graph)


@pytest.fixture(params=["tensorrt", "tensorrt-rtx"])
def flavour(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A flavour that is installed and knows the GPU here. Its caches start empty."""
    major, minor = torch.cuda.get_device_capability()
    if not find_spec(request.param.replace("-", "_")):
        pytest.skip(f"{request.param} is not installed")
    if request.param == "tensorrt-rtx" and f"SM{major}{minor}" not in plan_builder(request.param).targets():
        pytest.skip(f"tensorrt-rtx does not know SM{major}{minor}")
    monkeypatch.setenv("PURIFYCTL_CACHE", str(tmp_path / "cache"))
    return request.param


@pytest.fixture
def plan(flavour: str, onnx_files: dict[str, Path], tmp_path: Path) -> Path:
    """The residual purifier for the GPU here."""
    return local_plan(flavour, onnx_files["residual"], tmp_path)


def local_plan(flavour: str, onnx_file: Path, folder: Path) -> Path:
    file = folder / f"{onnx_file.stem}.plan"
    file.write_bytes(plan_builder(flavour).build_plan(onnx_file, image_size=tiny.SIZE, batch_size=BATCH, target=LOCAL))
    return file


@pytest.fixture
def runner(plan: Path, flavour: str) -> Iterator[PlanRunner]:
    with open_plan(plan, flavour) as opened:
        yield opened


@tiny.needs_gpu
@pytest.mark.parametrize("network", NETWORKS)
def test_a_plan_is_its_torch_reference_at_every_batch(
    network: str, flavour: str, onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    images = natural_images(BATCH, tiny.SIZE)
    reference = TorchRunner(graph(network, "fp32")).infer(images)
    with open_plan(local_plan(flavour, onnx_files[network], tmp_path), flavour) as runner:
        full = [to_host(output) for output in runner.infer(images)]
        check(full, reference)
        for n in (1, BATCH - 1):
            for output, expected in zip(runner.infer(images[:n]), full, strict=True):
                assert np.array_equal(to_host(output), expected[:n])


@tiny.needs_gpu
def test_a_full_batch_on_the_gpu_is_used_where_it_is(plan: Path, flavour: str) -> None:
    batch = torch.from_numpy(natural_images(BATCH, tiny.SIZE)).cuda()
    with open_plan(plan, flavour, cuda_graph=False) as runner:
        runner.infer(batch)
        assert runner._context.get_tensor_address(INPUT) == batch.data_ptr()
        runner.infer(batch[1:])  # padded
        assert runner._context.get_tensor_address(INPUT) != batch[1:].data_ptr()


@tiny.needs_gpu
def test_a_cuda_graph_gives_what_plain_launches_give(runner: PlanRunner, plan: Path, flavour: str) -> None:
    with open_plan(plan, flavour, cuda_graph=False) as plain:
        for seed in range(3):  # the first call may capture, the next ones replay
            images = np.roll(natural_images(BATCH, tiny.SIZE), seed, axis=1)
            assert torch.equal(runner.infer(images)[0], plain.infer(images)[0])


@tiny.needs_gpu
def test_results_survive_the_next_call(runner: PlanRunner) -> None:
    images = natural_images(BATCH, tiny.SIZE)
    (first,) = runner.infer(images)
    kept = first.clone()
    assert not torch.equal(runner.infer(255 - images)[0], kept)
    assert torch.equal(first, kept)


@tiny.needs_gpu
def test_threads_get_their_own_results(runner: PlanRunner) -> None:
    images = natural_images(BATCH, tiny.SIZE)
    batches = [np.roll(images, shift, axis=2) for shift in range(32)]
    expected = [to_host(runner.infer(batch)[0]) for batch in batches]
    with ThreadPoolExecutor(runner.concurrency) as pool:
        made = list(pool.map(lambda batch: to_host(runner.infer(batch)[0]), batches))
    assert all(map(np.array_equal, made, expected))


@tiny.needs_gpu
def test_a_batch_that_is_still_being_made_is_waited_for(runner: PlanRunner) -> None:
    images = torch.from_numpy(natural_images(BATCH, tiny.SIZE)).cuda()
    (expected,) = runner.infer(images)
    batch = torch.zeros_like(images)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(100_000_000)  # cycles: tens of milliseconds
        batch.copy_(images)
        assert torch.equal(runner.infer(batch)[0], expected)


@tiny.needs_gpu
def test_images_that_a_plan_does_not_take_are_refused(runner: PlanRunner) -> None:
    images = natural_images(BATCH + 1, tiny.SIZE)
    for wrong in (images, images[:0], images[:1, :32], images[:1].astype(np.float32)):
        with pytest.raises(ValueError, match="this plan takes"):
            runner.infer(wrong)


@tiny.needs_gpu
def test_a_file_that_is_no_plan_is_refused_with_the_next_step(flavour: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.plan"
    file.write_bytes(b"not a plan")
    with pytest.raises(BackendError, match=r"bad\.plan") as caught:
        open_plan(file, flavour)
    assert "build-engine" in caught.value.hint


@tiny.needs_gpu
def test_timings_and_kernels_are_kept_and_used_again(flavour: str, onnx_files: dict[str, Path], tmp_path: Path) -> None:
    images = natural_images(BATCH, tiny.SIZE)
    results = []
    for _ in range(2):
        plan = local_plan(flavour, onnx_files["residual"], tmp_path)
        with open_plan(plan, flavour) as runner:
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
        targets=(gpu_capability(),) if flavour == "tensorrt-rtx" else (),
        classifier="tests.tiny:classifier",
    )
    bundle = build_engine(config, tiny.checkpoint(tmp_path / "run"), tmp_path / "bundle")
    result = run(photos, bundle, tmp_path / "out")
    assert result.exit_code == 0
    assert len(list((tmp_path / "out" / "images").rglob("*.png"))) == 10
