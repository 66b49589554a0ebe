"""`--precision auto`: what it measures, takes, refuses and keeps; and what a BF16 engine leaves in FP32."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from purifyctl.config import EngineConfig, EnginePrecision, NetworkConfig
from purifyctl.engine import choice, parity
from purifyctl.engine.backends import open_runner, openvino
from purifyctl.engine.build import build_engine
from purifyctl.engine.graphs import classifier_graph, export_onnx, gate_graph, purifier_graph
from purifyctl.engine.kept import keep_ends_in_fp32
from purifyctl.engine.manifest import Candidate
from purifyctl.engine.parity import Tolerance
from purifyctl.engine.times import describe, times_here
from purifyctl.gate import load_gate
from purifyctl.images.synthetic import natural_images
from purifyctl.shipped import shipped_gate
from tests import tiny

CONFIG = EngineConfig(image_size=tiny.SIZE, batch_size=4, classifier="tests.tiny:classifier", gate="none")
BF16 = pytest.mark.skipif(not openvino.supports("bf16"), reason="this CPU has no BF16")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PURIFYCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "WINDOW_S", 0.01)


@pytest.mark.slow
def test_auto_times_every_candidate_once_and_keeps_the_times_for_this_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = tiny.checkpoint(tmp_path / "run")
    built = build_engine(CONFIG, checkpoint, tmp_path / "one", auto=True).manifest
    assert {one.precision for one in built.candidates} == set(openvino.candidates())
    assert all(one.ms_per_image > 0 for one in built.candidates)
    assert built.precision == next(one.precision for one in built.candidates if not one.refused)
    assert "--precision auto" in built.rebuild
    (kept,) = times_here()
    assert kept.candidates == built.candidates
    monkeypatch.setattr(choice, "per_second", lambda *_, **__: pytest.fail("timed again"))
    again = build_engine(CONFIG, checkpoint, tmp_path / "two", auto=True).manifest
    assert (again.precision, again.candidates) == (built.precision, built.candidates)


@pytest.mark.slow
def test_auto_never_takes_a_candidate_that_does_not_agree_with_torch_however_fast_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "WORTH", 1e-9)  # all others come before FP32
    exact = Tolerance(mean_grey=0, max_grey=0, probability=0, agreement=1)
    for precision in ("bf16", "int8", "int8-bf16"):
        monkeypatch.setitem(parity.TOLERANCES, precision, exact)
    built = build_engine(CONFIG, tiny.checkpoint(tmp_path / "run"), tmp_path / "bundle", auto=True).manifest
    assert built.precision == "fp32"
    *others, last = built.candidates
    assert last.precision == "fp32"
    assert not last.refused
    assert all("does not agree with torch" in one.refused for one in others)


@pytest.mark.slow
def test_each_form_of_transposed_convolutions_is_a_candidate(tmp_path: Path) -> None:
    checkpoint = tiny.checkpoint(tmp_path / "run", NetworkConfig(kind="unet", width=4, depth=5))
    config = replace(CONFIG, classifier="")
    built = build_engine(config, checkpoint, tmp_path / "bundle", auto=True).manifest
    forms = {one.rewrites[1:] for one in built.candidates if one.precision == "fp32"}
    assert forms == {(), ("deconvs_as_conv2",), ("deconvs_as_conv3",)}
    taken = next(one for one in built.candidates if not one.refused)
    assert built.networks["purifier"].rewrites == taken.rewrites


def test_a_precision_that_is_named_is_not_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "per_second", lambda *_, **__: pytest.fail("timed"))
    built = build_engine(CONFIG, tiny.checkpoint(tmp_path / "run"), tmp_path / "bundle").manifest
    assert (built.precision, built.candidates) == ("fp32", ())
    assert "--precision fp32" in built.rebuild


def test_times_of_another_machine_are_not_shown(tmp_path: Path) -> None:
    file = tmp_path / "cache" / "precisions" / "a.json"
    file.parent.mkdir(parents=True)
    others = {"networks": "n", "backend": "openvino", "backend_version": openvino.version(), "candidates": []}
    file.write_text(json.dumps(others | {"machine": {"processor": "another"}}))
    assert list(times_here()) == []
    file.write_text("{")
    assert list(times_here()) == []


def test_the_table_says_what_was_taken_what_it_gains_and_why_a_faster_one_was_not() -> None:
    fold = ("fold_norms",)
    said = describe(
        (
            Candidate("int8-bf16", fold, 4.0, "it has top1_agreement 0.9"),
            Candidate("bf16", (*fold, "deconvs_as_conv2"), 5.0),
            Candidate("fp32", fold, 10.0),
        )
    )
    assert (
        "best precision on this machine is bf16, deconvs as conv2: 5.0 ms per image, 2.00 times as fast as fp32" in said
    )
    assert "Others: fp32 10.0." in said
    assert "Faster, but refused: int8-bf16 4.0 (it has top1_agreement 0.9)." in said


def executed(runner: Any) -> list[tuple[str, str]]:
    """The convolutions as OpenVINO executes them, in order: name and type."""
    found = []
    for node in runner._model.get_runtime_model().get_ordered_ops():
        about = node.get_rt_info()
        if about["layerType"].astype(str) == "Convolution":
            found.append((node.get_friendly_name(), about["runtimePrecision"].astype(str)))
    return found


@BF16
def test_a_purifier_in_bf16_computes_its_first_and_its_last_layer_in_fp32(tmp_path: Path) -> None:
    file = tmp_path / "purifier.onnx"
    export_onnx(purifier_graph(tiny.purifier()), file, tiny.SIZE)
    images, made = natural_images(4, tiny.SIZE), {}
    for kept in (False, True):
        if kept:
            keep_ends_in_fp32(file)
        with open_runner("openvino", file, precision="bf16", image_size=tiny.SIZE, batch_size=4) as runner:
            types = [kind for _, kind in executed(runner)]
            (made[kept],) = runner.infer(images)
        assert types[0] == types[-1] == ("f32" if kept else "bf16")
        assert "bf16" in types[1:-1]
    with open_runner("openvino", file, precision="fp32", image_size=tiny.SIZE, batch_size=4) as runner:
        (exact,) = runner.infer(images)
    off = {kept: np.abs(output.astype(int) - exact).mean() for kept, output in made.items()}
    assert off[True] < off[False]


@BF16
def test_a_classifier_in_bf16_computes_close_calls_again_in_fp32_whatever_lies_beside_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, images = tmp_path / "classifier.onnx", natural_images(6, tiny.SIZE)
    export_onnx(classifier_graph(tiny.classifier()), file, tiny.SIZE)

    def probabilities(precision: EnginePrecision, pictures: np.ndarray = images) -> np.ndarray:
        with open_runner("openvino", file, precision=precision, image_size=tiny.SIZE, batch_size=4) as runner:
            return np.concatenate([runner.infer(pictures[i : i + 4])[0] for i in range(0, len(pictures), 4)])

    exact = probabilities("fp32")
    monkeypatch.setattr(openvino, "UNSURE", 0.0)
    quick = probabilities("bf16")
    assert not np.array_equal(quick, exact)
    best = np.sort(quick, axis=1)
    margins = best[:, -1] - best[:, -2]
    monkeypatch.setattr(openvino, "UNSURE", float(np.median(margins)))
    made, unsure = probabilities("bf16"), margins < np.median(margins)
    assert 0 < unsure.sum() < len(images)
    np.testing.assert_allclose(made[unsure], exact[unsure], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(made[~unsure], quick[~unsure])
    np.testing.assert_array_equal(probabilities("bf16", images[::-1])[::-1], made)


def test_the_first_convolution_of_a_gate_is_computed_in_whole_numbers_and_the_scores_stay(tmp_path: Path) -> None:
    file, images = tmp_path / "gate.onnx", natural_images(8, tiny.SIZE)
    gate = gate_graph(load_gate(shipped_gate()).net)
    export_onnx(gate, file, tiny.SIZE)
    with open_runner("openvino", file, precision="fp32", image_size=tiny.SIZE, batch_size=8) as runner:
        assert [kind for _, kind in executed(runner)] == ["u8", "f32", "f32", "f32"]
        (scores,) = runner.infer(images)
    np.testing.assert_allclose(scores, gate(torch.from_numpy(images)).detach().numpy(), rtol=1e-4)
