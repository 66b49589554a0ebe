"""The gate's network, its calibration and its thresholds."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from purifyctl.attacks import make_attack
from purifyctl.classifiers import load_classifier
from purifyctl.config import AttackConfig, parse_percent
from purifyctl.config.classifier import CLASSIFIER, WEIGHTS
from purifyctl.engine.parity import gate_scores
from purifyctl.errors import ConfigError, WeightsError
from purifyctl.gate import load_gate, save_gate
from purifyctl.metrics import auroc, divergence
from purifyctl.nn.gate import GateNetwork
from purifyctl.photographs import read_pixels, to_pixels, to_tensor
from purifyctl.shipped import shipped_gate
from purifyctl.sources import list_images
from purifyctl.thresholds import threshold_at, threshold_for
from purifyctl.training.calibration import platt
from tests import tiny


@pytest.mark.slow
def test_the_gate_that_ships_leaves_photographs_alone_and_finds_the_attacked_ones(samples: Path) -> None:
    pixels, _ = read_pixels(list_images(samples), 256)
    assert len(pixels) == 20
    x, classifier = to_tensor(pixels), load_classifier(CLASSIFIER, WEIGHTS)
    with torch.no_grad():
        predicted = classifier(x).argmax(1)
    attacked = to_pixels(make_attack(AttackConfig("fgsm"), classifier, x, predicted, 8 / 255))
    gate = load_gate(shipped_gate())
    of_clean, of_attacked = gate_scores(gate.net, pixels), gate_scores(gate.net, attacked)
    threshold = gate.thresholds["0.05"]
    assert int((of_clean >= threshold).sum()) <= 4  # 2 when this was written; 1 in 20 is what the rate promises
    assert int((of_attacked >= threshold).sum()) >= 18  # 20 when this was written
    assert (auroc(of_clean, of_attacked) or 0) >= 0.98  # 1.0 when this was written


@given(
    scores=st.lists(st.floats(0, 1, width=32), min_size=99, max_size=300),
    rate=st.sampled_from([0.01, 0.02, 0.05, 0.1]),
)
def test_a_threshold_lets_through_no_more_of_the_clean_images_than_its_rate(scores: list[float], rate: float) -> None:
    clean = np.array(scores)
    threshold = threshold_at(clean, rate)
    assert (clean >= threshold).mean() <= rate
    assert (clean >= np.nextafter(np.float32(threshold), np.float32(0))).mean() > 0


def test_the_gate_sees_what_a_blur_takes_out_of_each_image() -> None:
    net, x = GateNetwork().eval(), torch.rand(2, 3, 32, 48)
    seen: list[torch.Tensor] = []
    net.features.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    net(x)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
    noise = x - torch.nn.functional.avg_pool2d(padded, 3, stride=1)
    expected = torch.nn.functional.pixel_unshuffle((noise * 255 / 4).clamp(-2, 2), 2)
    assert torch.allclose(seen[0], expected, atol=1e-4)


@given(separation=st.floats(2, 100), scale=st.floats(1e-3, 1e3), seed=st.integers(0, 2**16))
@settings(deadline=None, max_examples=30)
def test_calibration_keeps_the_order_and_stays_finite_however_well_the_two_are_apart(
    separation: float, scale: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    clean = scale * torch.randn(60, generator=generator)
    attacked = scale * (torch.randn(40, generator=generator) + separation)
    a, b = platt(clean, attacked)
    assert a > 0
    scores = torch.sigmoid(a * torch.cat([clean, attacked]) + b)
    expected = torch.cat([torch.full((60,), 1 / 62), torch.full((40,), 41 / 42)])
    assert float(scores[60:].mean()) > float(scores[:60].mean())
    if separation > 20:
        assert scores == pytest.approx(expected, abs=0.1)


def test_a_rate_that_needs_more_photographs_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"98 clean photographs are too few .* 0\.01"):
        threshold_at(np.zeros(98), 0.01)
    assert threshold_at(np.zeros(99), 0.01) > 0


@given(
    negatives=st.lists(st.integers(0, 5), min_size=1, max_size=20),
    positives=st.lists(st.integers(0, 5), min_size=1, max_size=20),
)
def test_auroc_is_the_share_of_pairs_in_the_right_order(negatives: list[int], positives: list[int]) -> None:
    pairs = [(p > n) + (p == n) / 2 for p in positives for n in negatives]
    assert auroc(np.array(negatives, float), np.array(positives, float)) == pytest.approx(np.mean(pairs))


def test_the_divergence_of_two_predictions_is_0_of_equals_and_1_of_opposites() -> None:
    p, q = np.array([1, 0, 0], np.float32), np.array([0, 0.5, 0.5], np.float32)
    assert divergence(p, p) == 0
    assert divergence(p, q) == divergence(q, p) == 1
    assert divergence(q, np.array([0, 1, 0], np.float32)) == pytest.approx(0.3113, abs=1e-4)


@pytest.mark.parametrize(("text", "share"), [("1%", 0.01), ("0.5 %", 0.005), ("0.05", 0.05)])
def test_a_share_may_be_given_in_percent(text: str, share: float) -> None:
    assert parse_percent(text) == pytest.approx(share)
    assert threshold_for({"0.005": 1.0, "0.01": 2.0, "0.05": 3.0}, parse_percent(text)) > 0


@pytest.mark.parametrize("text", ["one", "120%", "-1%"])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is not a share"):
        parse_percent(text)


def test_a_gate_comes_back_from_disk_and_a_file_that_is_not_a_gate_is_refused(tmp_path: Path) -> None:
    net = GateNetwork(width=6).eval()
    save_gate(tmp_path / "gate.safetensors", net, {"0.01": 0.5}, {})
    x = torch.rand(2, 3, 32, 48)
    assert torch.equal(load_gate(tmp_path).net(x), net(x))
    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    for file in (tmp_path / "bad.safetensors", tiny.checkpoint(tmp_path / "run")):
        with pytest.raises(WeightsError, match="is no gate"):
            load_gate(file)
    with pytest.raises(WeightsError, match="There is no gate"):
        load_gate(tmp_path / "nowhere")


@torch.no_grad()
def test_a_gates_score_depends_on_noise_not_on_what_a_photograph_shows() -> None:
    net = GateNetwork(width=6).eval()
    flat = torch.full((1, 3, 32, 32), 0.25)
    assert net(flat) == pytest.approx(net(flat + 0.5), abs=1e-5)
    assert net(flat) != pytest.approx(net(flat + 8 / 255 * torch.randn(1, 3, 32, 32).sign()), abs=1e-3)
