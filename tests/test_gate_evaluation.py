"""The gate in evaluations: what it finds, and what an attack on gate, purifier and classifier together leaves."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from purifyctl.config import AttackConfig, EngineConfig
from purifyctl.engine.build import build_engine
from purifyctl.errors import ConfigError
from purifyctl.evaluation import EvaluateOptions, evaluate
from purifyctl.evaluation.defences import GATED, NONE, GatedPurifier
from purifyctl.evaluation.records import read_tables
from purifyctl.gate import load_gate
from purifyctl.metrics import auroc
from purifyctl.photographs import to_tensor
from purifyctl.report.evaluation import as_markdown
from purifyctl.run import RunOptions, run
from tests import tiny

GATED_RUN = RunOptions(gated=True)


@pytest.mark.slow
def test_thresholds_come_from_ones_own_clean_photographs_where_some_are_given(
    thirty: Path, gate: Path, tmp_path: Path
) -> None:
    config = EngineConfig(image_size=tiny.SIZE, batch_size=4, gate=str(gate))
    checkpoint = tiny.checkpoint(tmp_path / "run")
    bundle = build_engine(config, checkpoint, tmp_path / "bundle", gate_photos=thirty)
    assert set(bundle.manifest.gate_thresholds) == {"0.05", "0.1"}  # 30 photographs are too few for 1 in 100
    assert f"--gate-photos {thirty}" in bundle.manifest.rebuild
    assert (
        run(thirty, bundle, tmp_path / "out", RunOptions(gated=True, gate_fpr=0.1)).summary["gate"]["flagged"] <= 2
    )  # (30 + 1) / 10 - 1
    with pytest.raises(ConfigError, match=r"no threshold for a false-positive rate of 0\.01"):
        run(thirty, bundle, tmp_path / "other", GATED_RUN)
    few = tmp_path / "few"
    few.mkdir()
    for file in sorted((thirty / "cats").iterdir())[:5]:
        (few / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ConfigError, match="5 clean photographs are too few"):
        build_engine(config, checkpoint, tmp_path / "third", gate_photos=few)
    with pytest.raises(ConfigError, match="no gate"):
        build_engine(replace(config, gate="none"), checkpoint, tmp_path / "third", gate_photos=thirty)
    assert not (tmp_path / "third").exists()


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A gate that flags half of the photographs of `thirty`."""
    shown = [np.asarray(tiny.photograph((tiny.SIZE, tiny.SIZE), seed)) for seed in range(30)]
    return tiny.gate(tmp_path / "gate.safetensors", np.stack(shown))


@pytest.mark.slow
def test_evaluate_says_what_a_gate_finds_and_attacks_all_three_together(
    thirty: Path, gate: Path, tmp_path: Path
) -> None:
    options = EvaluateOptions(
        checkpoint=tiny.checkpoint(tmp_path / "run"),
        classifier="tests.tiny:animals",
        gate=gate,
        attacks=(AttackConfig("fgsm"), AttackConfig("pgd", steps=3)),
        eps=("16/255",),
        threat_models=("gray_box", "adaptive"),
        labels="predicted",
        image_size=tiny.SIZE,
        batch_size=8,
        expensive_limit=8,
    )
    result = evaluate(thirty, tmp_path / "out", options)
    cells = [cell for cell in result.document["cells"] if cell["defence"] == GATED]
    gray_box = next(cell for cell in cells if cell["attack"] == "FGSM" and cell["threat_model"] == "gray_box")
    attacked, clean = (read_tables(tmp_path / "out" / "records", key) for key in ("gray_box-fgsm-16", "clean"))
    turned = attacked[NONE]["prediction"] != attacked[NONE]["true_index"]
    expected = auroc(clean[GATED]["gate_score"], attacked[GATED]["gate_score"][turned])
    assert gray_box["gate_auroc"] == pytest.approx(expected)
    assert gray_box["gate_tpr_at_5%_n"] == int(turned.sum()) > 3
    threshold = load_gate(gate).thresholds["0.01"]
    found = attacked[GATED]["gate_score"][turned] >= threshold
    assert (gray_box["gate_tpr"], gray_box["gate_tpr_n"]) == (found.mean(), len(found))
    price = next(cell for cell in cells if cell["threat_model"] == "clean")
    assert price["gate_false_positives"] == (clean[GATED]["gate_score"] >= threshold).mean() > 0
    assert {cell["attack"] for cell in cells if cell["threat_model"] == "adaptive"} >= {"PGD-3", "FGSM"}
    text = as_markdown(result.document)
    assert "## The gate: how many successful attacks it finds" in text
    assert f"{gray_box['gate_auroc']:.3f}" in text
    unflagged = clean[GATED]["gate_score"] < threshold
    assert unflagged.any()
    same = clean[GATED]["prediction"][unflagged] == clean[NONE]["prediction"][unflagged]
    assert same.all()


def test_a_gated_purifier_decides_hard_and_shows_an_attacker_both_ways_through(gate: Path) -> None:
    loaded = load_gate(gate)
    purifier = tiny.purifier().requires_grad_(False)
    net = GatedPurifier(loaded.net, loaded.thresholds["0.01"], purifier)
    shown = np.stack([np.asarray(tiny.photograph((tiny.SIZE, tiny.SIZE), seed)) for seed in range(30)])
    x = to_tensor(shown).requires_grad_()
    flagged = torch.sigmoid(loaded.net(x)) >= loaded.thresholds["0.01"]
    assert 5 < int(flagged.sum()) < 25
    made = net(x)
    torch.testing.assert_close(made[flagged], purifier(x[flagged]))
    torch.testing.assert_close(made[~flagged], x[~flagged])
    (gradient,) = torch.autograd.grad((made * torch.randn(made.shape)).sum(), x)
    (of_gate,) = torch.autograd.grad(loaded.net(x).sum(), x)
    assert float(of_gate.abs().amax()) > 0
    assert (gradient.flatten(1).abs().amax(1) > 0).all()
