from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from purifyctl.config import (
    AttackConfig,
    EngineConfig,
    GateConfig,
    TrainConfig,
    eps_scale,
    format_eps,
    from_dict,
    parse_eps,
    read_recipe,
    to_dict,
)
from purifyctl.errors import ConfigError

ROOT = Path(__file__).parents[1]
MINIMAL = {
    "network": {"kind": "residual", "width": 32, "depth": 4},
    "classifiers": [{"name": "mobilenet_v2"}],
    "attacks": [{"kind": "fgsm", "eps": ["4/255", "8/255"]}],
}


@pytest.mark.parametrize("recipe", sorted((ROOT / "train").glob("*.toml")), ids=lambda p: p.name)
def test_every_training_recipe_loads(recipe: Path) -> None:
    read_recipe(recipe, GateConfig if recipe.stem == "gate" else TrainConfig)


@pytest.mark.parametrize("recipe", sorted((ROOT / "engines").glob("*.toml")), ids=lambda p: p.name)
def test_every_engine_recipe_loads(recipe: Path) -> None:
    read_recipe(recipe, EngineConfig)


def test_a_config_survives_a_round_trip_through_plain_data() -> None:
    config = from_dict(TrainConfig, MINIMAL)
    assert from_dict(TrainConfig, to_dict(config)) == config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"learning_rat": 1}, "unknown key learning_rat"),
        ({"network": {"kind": "residual", "widht": 3}}, "unknown key network.widht"),
        ({"network": {"kind": "resnet"}}, "network.kind is 'resnet'; it must be one of 'unet', 'residual'"),
        ({"network": "unet"}, "network is 'unet'; it must be a table"),
        ({"network": {}}, "the key network.kind is missing"),
        ({"batch_size": "8"}, "batch_size is '8'; it must be a whole number"),
        ({"batch_size": True}, "it must be a whole number"),
        ({"learning_rate": float("inf")}, "it must be a finite number"),
        ({"image_size": 100}, "multiples of 16 pixels"),
        ({"image_size": 320}, "larger than resize"),
        ({"identity_share": 1.0}, "identity_share"),
        ({"attacks": []}, "at least one attack"),
        ({"attacks": {"kind": "fgsm"}}, "double brackets"),
        ({"attacks": [{"kind": "fgsm", "eps": ["8/255", "4/255"]}]}, "low <= high"),
        ({"attacks": [{"kind": "fgsm", "eps": [8, 16]}]}, "eps 8 lies outside"),
        ({"attacks": [{"kind": "fgsm", "eps": ["4/255"]}]}, "must be a list of 2"),
        ({"attacks": [{"kind": "fgsm", "eps": ["1/255", "1/255"], "steps": 3}]}, "FGSM has one step"),
        ({"attacks": [{"kind": "deepfool", "eps": ["1/255", "1/255"]}]}, "no attack to train with"),
        ({"attacks": [{"kind": "pgd", "eps": ["1/255", "1/255"], "targeted": True}]}, "attacks.targeted"),
        ({"objective": {"l1": 0.0}}, "nothing to learn"),
        ({"objective": {"l1": -1.0}}, "negative"),
        ({"seed": -1}, "seed"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused_with_the_key_and_the_reason(change: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("[", r"\[")):
        from_dict(TrainConfig, {**MINIMAL, **change})


def test_a_bad_recipe_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text("batch_size = ")
    with pytest.raises(ConfigError, match=r"bad\.toml"):
        read_recipe(file, EngineConfig)
    with pytest.raises(ConfigError, match="no recipe"):
        read_recipe(tmp_path / "missing.toml", EngineConfig)


def test_precisions_that_a_backend_does_not_run_are_refused() -> None:
    with pytest.raises(ConfigError, match="openvino does not run fp16"):
        EngineConfig(backend="openvino", precision="fp16")
    with pytest.raises(ConfigError, match="tensorrt-rtx does not run bf16"):
        EngineConfig(backend="tensorrt-rtx", precision="bf16")


@given(st.integers(0, 255))
def test_eps_is_read_as_written_and_printed_as_read(n: int) -> None:
    assert parse_eps(f"{n}/255") == pytest.approx(n / 255)
    assert format_eps(n / 255) == f"{n}/255"


@given(st.floats(0, 255))
def test_every_printed_eps_can_be_read_back(n: float) -> None:
    assert parse_eps(format_eps(n / 255)) == pytest.approx(n / 255, rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("text", ["8", "-1/255", "1e999", "nan", "eight", "1/0", ""])
def test_an_eps_that_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="eps"):
        parse_eps(text)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"kind": "fgsm", "restarts": 2}, "restarts are for pgd; FGSM has no random start"),
        ({"kind": "square", "eot": 5}, "Square does not offer that"),
        ({"kind": "deepfool", "targeted": True}, "DeepFool cannot be given a target"),
        ({"kind": "least-likely", "targeted": True}, "Least-likely cannot be given a target"),
        ({"kind": "autoattack", "steps": 10}, "AutoAttack fixes its own steps"),
        ({"kind": "pgd", "restarts": 0}, "restarts is 0"),
        ({"kind": "pgd", "eot": 0}, "eot is 0"),
        ({"kind": "pgd", "steps": -1}, "steps is -1"),
    ],
)
def test_attacks_that_make_no_sense_are_refused_with_the_reason(options: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        from_dict(AttackConfig, options)


@pytest.mark.parametrize(
    ("attack", "name"),
    [
        (AttackConfig("fgsm"), "FGSM"),
        (AttackConfig("pgd"), "PGD-10"),
        (AttackConfig("pgd", steps=100, restarts=5), "PGD-100 x5"),
        (AttackConfig("dim", eot=20, targeted=True), "DIM-10 EOT 20 targeted"),
        (AttackConfig("square"), "Square-5000"),
        (AttackConfig("autoattack"), "AutoAttack"),
    ],
)
def test_an_attack_is_named_with_all_that_decides_its_strength(attack: AttackConfig, name: str) -> None:
    assert attack.name == name


def test_the_papers_eps_depends_on_the_range_that_it_is_meant_in() -> None:
    assert parse_eps("0.3", eps_scale("unit")) * 255 == pytest.approx(76.5)
    assert parse_eps("0.3", eps_scale("signed")) * 255 == pytest.approx(38.25)
    assert parse_eps("0.3", eps_scale("mean-std", (0.229, 0.224, 0.225))) * 255 == pytest.approx(17.136)
    assert parse_eps("2", eps_scale("signed")) == 1
    with pytest.raises(ConfigError, match="not known to normalise"):
        eps_scale("mean-std", (1.0, 1.0, 1.0))
