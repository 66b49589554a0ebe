"""torch as a backend: the same networks as programs, here on the CPU. On a GPU: tests/test_gpu_run.py."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import purifyctl
from purifyctl.config import EngineConfig
from purifyctl.engine.backends import open_runner, torch_cuda
from purifyctl.engine.backends.torch import TorchRunner, read_program
from purifyctl.engine.build import build_engine
from purifyctl.engine.bundle import Bundle, load_bundle
from purifyctl.engine.graphs import export_program
from purifyctl.errors import BackendError, BundleError, ConfigError
from purifyctl.images.synthetic import natural_images
from tests import tiny
from tests.damage import changed, edit
from tests.gpu_graphs import BATCH, NETWORKS, check, graph, written
from tests.kills import ROOT, command, harass


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every network in FP16. Read only."""
    return written(tmp_path_factory.mktemp("programs"), export_program, "pt2")


@pytest.mark.slow
@pytest.mark.parametrize("network", NETWORKS)
def test_a_program_is_its_torch_reference_at_every_batch(network: str, programs: dict[str, Path]) -> None:
    images = natural_images(BATCH, tiny.SIZE)
    reference = TorchRunner(graph(network, "fp32")).infer(images)
    options = {"precision": "fp16", "image_size": tiny.SIZE, "batch_size": BATCH}
    with open_runner("torch-cpu", programs[network], **options) as runner:
        full = runner.infer(images)
        check(full, reference)
        for n in (1, BATCH - 1):
            for output, expected in zip(runner.infer(images[:n]), full, strict=True):
                assert np.array_equal(output, expected[:n])


@pytest.mark.slow
def test_a_program_moves_to_another_device_whole_and_in_channels_last(programs: dict[str, Path]) -> None:
    """The device "meta" stands for a GPU: it has shapes and layouts, and no memory."""
    for file in programs.values():
        moved = torch_cuda.on_device(read_program(file), "meta")
        tensors = [*moved.parameters(), *moved.buffers()]
        assert {tensor.device.type for tensor in tensors} == {"meta"}
        assert all(t.is_contiguous(memory_format=torch.channels_last) for t in tensors if t.ndim == 4)
        named = {str(node.kwargs["device"]) for node in moved.graph.nodes if node.kwargs.get("device") is not None}
        assert named <= {"meta"}
        with torch.inference_mode():
            made = moved(torch.zeros(BATCH, tiny.SIZE, tiny.SIZE, 3, dtype=torch.uint8, device="meta"))
        assert all(len(output) == BATCH for output in (made if isinstance(made, tuple) else (made,)))


@pytest.mark.slow
def test_what_a_cuda_graph_records_writes_the_programs_results_into_its_buffers(programs: dict[str, Path]) -> None:
    """The part of the runner for GPUs that needs none: one batch from a buffer into buffers, here in host memory."""
    images = natural_images(BATCH, tiny.SIZE)
    options = {"precision": "fp16", "image_size": tiny.SIZE, "batch_size": BATCH}
    with open_runner("torch-cpu", programs["fused"], **options) as reference:
        expected = reference.infer(images)
    runner = object.__new__(torch_cuda.TorchCudaRunner)
    runner._program = torch_cuda.on_device(read_program(programs["fused"]), "cpu")
    made = {
        str(i): torch.zeros(output.shape, dtype=torch.from_numpy(output).dtype) for i, output in enumerate(expected)
    }
    runner._execute(torch.from_numpy(images), made)
    check([output.numpy() for output in made.values()], expected)


def test_a_file_that_is_no_program_is_refused_with_the_next_step(tmp_path: Path) -> None:
    file = tmp_path / "bad.pt2"
    file.write_bytes(b"not a program")
    with pytest.raises(BackendError, match=r"torch .* cannot read .*bad\.pt2") as caught:
        open_runner("torch-cpu", file, precision="fp32", image_size=tiny.SIZE, batch_size=1)
    assert "build-engine" in caught.value.hint


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_without_a_gpu_its_runner_says_what_to_build_instead(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="needs an NVIDIA GPU") as caught:
        open_runner("torch-cuda", tmp_path / "x.pt2", precision="fp16", image_size=tiny.SIZE, batch_size=1)
    assert "--backend openvino" in caught.value.hint


@pytest.fixture(scope="module")
def torch_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """As `tiny_bundle`. Read only."""
    return tiny.bundle(tmp_path_factory.mktemp("torch"), "torch-cpu")


@pytest.mark.slow
def test_a_bundle_holds_programs_and_says_how_they_agree(torch_bundle: Bundle) -> None:
    manifest = torch_bundle.manifest
    assert {network.onnx for network in manifest.networks.values()} == {"purifier.pt2", "classifier.pt2", "gate.pt2"}
    assert set(manifest.files) == {network.onnx for network in manifest.networks.values()}
    assert manifest.parity.covers.startswith("the engine, on ")
    assert manifest.parity.chains["purifier, classifier"]["top1_agreement"] == 1
    assert torch_bundle.device == "cpu"


@pytest.mark.slow
def test_a_program_of_another_version_of_torch_is_refused(torch_bundle: Bundle, tmp_path: Path) -> None:
    path = changed(torch_bundle, tmp_path / "bundle", edit(lambda m: m.update(backend_version="2.0.0")))
    with pytest.raises(BundleError, match="its programs do not carry over") as caught:
        load_bundle(path, trusted=True).check_runs_here()
    assert caught.value.hint == torch_bundle.manifest.rebuild


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_an_engine_for_gpus_builds_without_one_and_its_programs_are_compared_on_the_cpu(tmp_path: Path) -> None:
    config = EngineConfig(
        backend="torch-cuda",
        precision="fp16",
        image_size=tiny.SIZE,
        batch_size=BATCH,
        classifier="tests.tiny:classifier",
        fused=True,
    )
    bundle = build_engine(config, tiny.checkpoint(tmp_path / "run"), tmp_path / "bundle")
    parity = bundle.manifest.parity
    assert parity.measured_with.startswith("torch-cpu ")
    assert parity.covers.startswith("the graph only, on a CPU: there is no GPU here")
    assert set(parity.chains) == {"purifier, classifier", "fused"}
    assert bundle.device == "cuda"
    with pytest.raises(BackendError, match="needs an NVIDIA GPU"):
        bundle.open("purifier")


def test_explain_and_a_classifier_in_onnx_are_refused_before_anything_is_built(tmp_path: Path) -> None:
    config = EngineConfig(backend="torch-cpu", image_size=tiny.SIZE, batch_size=BATCH)
    with pytest.raises(ConfigError, match="--explain compares the layers of ONNX graphs"):
        build_engine(config, tiny.checkpoint(tmp_path / "run"), tmp_path / "bundle", explain=True)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.slow
def test_an_engine_gives_what_openvino_gives(torch_bundle: Bundle, tiny_bundle: Bundle) -> None:
    images = natural_images(10, tiny.SIZE)
    with purifyctl.Engine(torch_bundle.path) as ours, purifyctl.Engine(tiny_bundle.path, device="auto") as others:
        difference = np.abs(ours(images).astype(int) - others(images))
        assert difference.max() <= 1
        assert difference.mean() < 0.02
        assert np.allclose(ours.gate_scores(images), others.gate_scores(images), atol=0.002)
        classes = [engine.classify(images).probabilities.argmax(1) for engine in (ours, others)]
        assert np.array_equal(*classes)
    with pytest.raises(ConfigError, match="for cpu, and --device is cuda"):
        purifyctl.Engine(torch_bundle.path, device="cuda")


@pytest.mark.slow
def test_a_run_that_is_killed_ends_as_an_undisturbed_one(torch_bundle: Bundle, many: Path, tmp_path: Path) -> None:
    subprocess.run(command(many, torch_bundle, tmp_path / "whole"), cwd=ROOT, check=True)
    done = harass(many, torch_bundle, tmp_path, tmp_path / "whole", kills=2, seed=1)
    assert done.pop("runs") >= 1
    assert done.total() == 2
