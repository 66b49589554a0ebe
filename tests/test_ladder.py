import pytest

from purifyctl.config import AttackConfig
from purifyctl.config.evaluate import parse_attack, parse_threat_models
from purifyctl.errors import ConfigError
from purifyctl.evaluation.defences import NONE, PURIFIER
from purifyctl.evaluation.ladder import EPS, Rung, build_ladder, paper_eps
from tests.evaluating import ALL, FGSM


def test_the_default_ladder_has_every_rung_of_the_protocol() -> None:
    pipelines = (NONE, PURIFIER)
    ladder = build_ladder(threat_models=ALL, eps=EPS, surrogates=("other",), pipelines=pipelines)
    assert ladder[0] == Rung("clean")
    names = {model: {rung.name for rung in ladder if rung.threat_model == model} for model in ALL}
    assert names["gray_box"] == {"FGSM", "PGD-10", "PGD-100", "MI-FGSM-10", "DeepFool-50", "C&W-100"}
    assert names["transfer"] == {"PGD-10 on other", "MI-FGSM-10 on other", "DIM-10 on other"}
    assert names["black_box"] == {"Square-5000"}
    assert names["adaptive"] == {"PGD-10", "PGD-100 x5", "AutoAttack", "PGD-100 (BPDA identity)"}
    for threat_model in ("black_box", "adaptive"):  # no defence is attacked just as hard, or the figures say nothing
        for attack in names[threat_model] - {"PGD-100 (BPDA identity)"}:
            assert {r.pipeline for r in ladder if (r.threat_model, r.name) == (threat_model, attack)} == set(pipelines)
    assert len({rung.key for rung in ladder}) == len(ladder)
    assert {round(rung.eps * 255) for rung in ladder[1:]} == {2, 4, 8, 16}


def test_random_defences_get_their_gradients_averaged_over_20_passes() -> None:
    ladder = build_ladder(threat_models=("adaptive",), eps=(4 / 255,), pipelines=(PURIFIER,), random=(PURIFIER,))
    assert {rung.attack.eot for rung in ladder if rung.attack} == {20}


def test_the_papers_eps_is_read_in_every_space_once() -> None:
    assert paper_eps((0.229, 0.224, 0.225), "unit") == pytest.approx(
        {"unit": 0.3, "signed": 0.15, "mean-std": 0.3 * 0.224}
    )
    assert list(paper_eps((1.0, 1.0, 1.0), "signed")) == ["signed", "unit"]
    assert list(paper_eps((0.5, 0.5, 0.5), "unit")) == ["unit", "signed"]  # mean/std units are [-1, 1] here
    ladder = build_ladder(threat_models=("gray_box",), eps=(2 / 255,), attacks=(FGSM,), paper_eps=(0.3, 0.15))
    assert [(rung.name, rung.eps) for rung in ladder[1:]] == [
        *(("FGSM", 2 / 255), ("FGSM", 0.3)),
        *(("PGD-10", 0.3), ("FGSM", 0.15), ("PGD-10", 0.15)),
    ]


@pytest.mark.parametrize(
    ("text", "attack"),
    [
        ("fgsm", FGSM),
        ("pgd-100", AttackConfig("pgd", steps=100)),
        ("PGD-100x5", AttackConfig("pgd", steps=100, restarts=5)),
        ("mi-fgsm-20", AttackConfig("mi-fgsm", steps=20)),
        ("one-pixel", AttackConfig("one-pixel")),
    ],
)
def test_attacks_are_read_from_text(text: str, attack: AttackConfig) -> None:
    assert parse_attack(text) == attack


@pytest.mark.parametrize("text", ["", "pdg", "pgd-", "pgd-x", "fgsm-7", "autoattackx2", "autoattack-3"])
def test_attacks_that_do_not_exist_are_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_attack(text)


def test_threat_models_are_read_from_text() -> None:
    assert parse_threat_models("gray-box, adaptive") == ("gray_box", "adaptive")
    with pytest.raises(ConfigError, match="no rung 'grey'"):
        parse_threat_models("grey")


def test_a_ladder_without_a_rung_that_was_asked_for_is_refused() -> None:
    with pytest.raises(ConfigError, match="transfer"):
        build_ladder(threat_models=("transfer",), eps=(4 / 255,))
    with pytest.raises(ConfigError, match="less than a grey level"):
        build_ladder(threat_models=("gray_box",), eps=(0.5 / 255,))
    left = build_ladder(
        threat_models=ALL, eps=(4 / 255,), attacks=(AttackConfig("square"),), pipelines=(PURIFIER,), explicit=False
    )
    assert [rung.threat_model for rung in left] == ["clean", "black_box"]
