"""Engines of every backend for GPUs on the GPU of this machine: plans of both TensorRT libraries, torch's programs."""

import importlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from purifyctl import devices
from purifyctl.config import BACKENDS, GPU_BACKENDS, EngineConfig
from purifyctl.engine.backends import LOCAL, plan_builder, to_host
from purifyctl.engine.backends.cuda import CudaRunner
from purifyctl.engine.backends.torch import TorchRunner
from purifyctl.engine.backends.torch_cuda import TorchCudaRunner
from purifyctl.engine.build import build_engine
from purifyctl.engine.graphs import export_program
from purifyctl.engine.tensors import INPUT
from purifyctl.errors import BackendError
from purifyctl.images.synthetic import natural_images
from purifyctl.machine import gpu_capability
from purifyctl.run import run
from tests import tiny
from tests.commands import purifyctl
from tests.gpu_graphs import BATCH, NETWORKS, check, graph, onnx_files

__all__ = ["onnx_files"]  # a fixture


def open_engine(file: Path, backend: str, *, cuda_graph: bool = True) -> CudaRunner:
    if BACKENDS[backend].plans == "none":
        return TorchCudaRunner(file, (BATCH, tiny.SIZE, tiny.SIZE, 3), cuda_graph=cuda_graph)
    return importlib.import_module(BACKENDS[backend].module).open_plan(file, cuda_graph=cuda_graph)


@pytest.fixture(params=GPU_BACKENDS)
def backend(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A backend that is installed and knows the GPU here. Its caches start empty."""
    about, target = BACKENDS[request.param], gpu_capability()
    if not find_spec(about.imported_as):
        pytest.skip(f"{about.name} is not installed")
    if about.cards and target not in about.cards:
        pytest.skip(f"{about.name} does not know {target}")
    monkeypatch.setenv("PURIFYCTL_CACHE", str(tmp_path / "cache"))
    return about.name


@pytest.fixture
def builds_plans(backend: str) -> str:
    """As `backend`, for the TensorRT libraries."""
    if BACKENDS[backend].plans == "none":
        pytest.skip(f"{backend} builds no plans")
    return backend


@pytest.fixture
def engine(backend: str, onnx_files: dict[str, Path], tmp_path: Path) -> Path:
    """The residual purifier for the GPU here, in FP16."""
    return built_here(backend, "residual", onnx_files, tmp_path)


def built_here(backend: str, network: str, onnx_files: dict[str, Path], folder: Path) -> Path:
    """A network's plan for the GPU here, or its program."""
    file, builder = folder / f"{network}.engine", plan_builder(backend)
    if builder is None:
        export_program(graph(network, "fp16"), file, tiny.SIZE)
    else:
        plan = builder.build_plan(onnx_files[network], image_size=tiny.SIZE, batch_size=BATCH, target=LOCAL)
        file.write_bytes(plan)
    return file


@pytest.fixture
def runner(engine: Path, backend: str) -> Iterator[CudaRunner]:
    with open_engine(engine, backend) as opened:
        yield opened


@tiny.needs_gpu
@pytest.mark.parametrize("network", NETWORKS)
def test_an_engine_is_its_torch_reference_at_every_batch(
    network: str, backend: str, onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    images = natural_images(BATCH, tiny.SIZE)
    reference = TorchRunner(graph(network, "fp32")).infer(images)
    with open_engine(built_here(backend, network, onnx_files, tmp_path), backend) as runner:
        full = [to_host(output) for output in runner.infer(images)]
        check(full, reference)
        for n in (1, BATCH - 1):
            for output, expected in zip(runner.infer(images[:n]), full, strict=True):
                assert np.array_equal(to_host(output), expected[:n])


@tiny.needs_gpu
def test_a_full_batch_on_the_gpu_is_used_where_it_is(engine: Path, builds_plans: str) -> None:
    batch = torch.from_numpy(natural_images(BATCH, tiny.SIZE)).cuda()
    with open_engine(engine, builds_plans, cuda_graph=False) as runner:
        runner.infer(batch)
        assert runner._context.get_tensor_address(INPUT) == batch.data_ptr()
        runner.infer(batch[1:])  # padded
        assert runner._context.get_tensor_address(INPUT) != batch[1:].data_ptr()


@tiny.needs_gpu
def test_a_cuda_graph_gives_what_plain_launches_give(runner: CudaRunner, engine: Path, backend: str) -> None:
    with open_engine(engine, backend, cuda_graph=False) as plain:
        for seed in range(3):  # the first call may capture, the next ones replay
            images = np.roll(natural_images(BATCH, tiny.SIZE), seed, axis=1)
            assert torch.equal(runner.infer(images)[0], plain.infer(images)[0])


@tiny.needs_gpu
def test_results_survive_the_next_call(runner: CudaRunner) -> None:
    images = natural_images(BATCH, tiny.SIZE)
    (first,) = runner.infer(images)
    kept = first.clone()
    assert not torch.equal(runner.infer(255 - images)[0], kept)
    assert torch.equal(first, kept)


@tiny.needs_gpu
def test_threads_get_their_own_results(runner: CudaRunner) -> None:
    images = natural_images(BATCH, tiny.SIZE)
    batches = [np.roll(images, shift, axis=2) for shift in range(32)]
    expected = [to_host(runner.infer(batch)[0]) for batch in batches]
    with ThreadPoolExecutor(runner.concurrency) as pool:
        made = list(pool.map(lambda batch: to_host(runner.infer(batch)[0]), batches))
    assert all(map(np.array_equal, made, expected))


@tiny.needs_gpu
def test_a_batch_that_is_still_being_made_is_waited_for(runner: CudaRunner) -> None:
    images = torch.from_numpy(natural_images(BATCH, tiny.SIZE)).cuda()
    (expected,) = runner.infer(images)
    batch = torch.zeros_like(images)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(100_000_000)  # cycles: tens of milliseconds
        batch.copy_(images)
        assert torch.equal(runner.infer(batch)[0], expected)


@tiny.needs_gpu
def test_images_that_an_engine_does_not_take_are_refused(runner: CudaRunner) -> None:
    images = natural_images(BATCH + 1, tiny.SIZE)
    for wrong in (images, images[:0], images[:1, :32], images[:1].astype(np.float32)):
        with pytest.raises(ValueError, match="this engine takes"):
            runner.infer(wrong)


@tiny.needs_gpu
def test_a_file_that_is_no_engine_is_refused_with_the_next_step(backend: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.engine"
    file.write_bytes(b"not an engine")
    with pytest.raises(BackendError, match=r"bad\.engine") as caught:
        open_engine(file, backend)
    assert "build-engine" in caught.value.hint


@tiny.needs_gpu
def test_timings_and_kernels_are_kept_and_used_again(
    builds_plans: str, onnx_files: dict[str, Path], tmp_path: Path
) -> None:
    images = natural_images(BATCH, tiny.SIZE)
    results = []
    for _ in range(2):
        plan = built_here(builds_plans, "residual", onnx_files, tmp_path)
        with open_engine(plan, builds_plans) as runner:
            results.append(to_host(runner.infer(images)[0]))
        (kept,) = (tmp_path / "cache" / builds_plans).iterdir()
        assert kept.suffix == (".timings" if builds_plans == "tensorrt" else ".kernels")
        assert kept.stat().st_size > 0
    assert np.array_equal(*results)


@tiny.needs_gpu
def test_a_folder_goes_through_decoder_purifier_and_classifier_on_the_gpu(
    backend: str, photos: Path, tmp_path: Path
) -> None:
    config = EngineConfig(
        backend=backend,  # type: ignore[arg-type]
        precision="fp16",
        image_size=tiny.SIZE,
        batch_size=BATCH,
        targets=(gpu_capability(),) if BACKENDS[backend].plans == "ahead" else (),
        classifier="tests.tiny:classifier",
    )
    bundle = build_engine(config, tiny.checkpoint(tmp_path / "run"), tmp_path / "bundle")
    result = run(photos, bundle, tmp_path / "out")
    assert result.exit_code == 0
    assert len(list((tmp_path / "out" / "images").rglob("*.png"))) == 10


@tiny.needs_gpu
def test_the_default_engine_is_one_for_the_gpu_and_says_so(photos: Path, tmp_path: Path) -> None:
    done = purifyctl("run", photos, "--out", tmp_path / "out", "--device", "cuda:0", "--classifier", "none")
    assert done.returncode == 0, done.stderr
    assert f"On GPU 0, {torch.cuda.get_device_name(0)} ({gpu_capability()}), with " in " ".join(done.stderr.split())
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["engine"]["precision"] == "fp16"


@tiny.needs_gpu
def test_the_driver_and_torch_see_the_same_gpus() -> None:
    found = devices.here()
    assert [card.name for card in found.cards] == [
        torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())
    ]
    assert [card.capability for card in found.cards] == [
        torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())
    ]
