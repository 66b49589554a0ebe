"""Phases: what each learns, from which weights, and at which learning rate."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from purifyctl.checkpoint import load_purifier
from purifyctl.config import (
    ClassifierConfig,
    ObjectiveConfig,
    Phase,
    TrainConfig,
    TrainingAttack,
    from_dict,
    to_dict,
)
from purifyctl.errors import ConfigError
from purifyctl.training import run_folder, train
from purifyctl.training.phases import plan_phases
from tests import tiny
from tests.tiny_training import assert_same_weights, config, losses, tiny_images, trainers

THROUGH = TrainingAttack("pgd", eps=(8 / 255, 8 / 255), steps=1, through="purifier")
THREE = config(
    classifiers=(ClassifierConfig("tests.tiny:classifier"), ClassifierConfig("tests.tiny:birds")),
    epochs=1,
    schedule="cosine",
    learning_rate=2e-3,
    validation_eps=(8 / 255,),
    phases=(
        Phase("denoise", 1, terms=("l1",), classifiers=("tests.tiny:classifier",)),
        Phase("guide", 2, learning_rate=1e-3, identity_share=0.5, classifiers=("tests.tiny:classifier",)),
        Phase(
            "broaden",
            2,
            goes_on_from="best",
            schedule="constant",
            objective={"l1": 50.0},
            attacks=(TrainingAttack("fgsm", eps=(2 / 255, 4 / 255)),),
        ),
    ),
)  # of ten photographs: 4 steps, 8 and 8


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten photographs in two folders. Read only."""
    return tiny.photographs(tmp_path_factory.mktemp("ten"), 10, labelled=True)


@pytest.fixture(scope="module")
def in_one_go(ten: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a training of three phases leaves. Read only."""
    folder = tmp_path_factory.mktemp("three") / "run"
    assert train(THREE, ten, folder).steps == 20
    return folder


@pytest.mark.slow
def test_phases_give_the_weights_of_the_chain_of_trainings_that_they_replace(
    ten: Path, in_one_go: Path, tmp_path: Path
) -> None:
    start = ""
    for phase in plan_phases(THREE, 1):
        if phase.number:
            start = str(tmp_path / ("last.safetensors" if phase.goes_on_from == "last" else "purifier.safetensors"))
            start = str(Path(start).parent / str(phase.number - 1) / Path(start).name)
        train(replace(phase.config, start=start), ten, tmp_path / str(phase.number))
    for name in ("last", "purifier"):
        assert_same_weights(in_one_go / f"{name}.safetensors", tmp_path / "2" / f"{name}.safetensors")
    chained, phased = load_purifier(tmp_path / "2"), load_purifier(in_one_go)
    assert phased.guided_by == chained.guided_by == ["tests.tiny:classifier", "tests.tiny:birds"]
    assert phased.about["step"] == chained.about["step"] + 12
    attacked = chained.about["held_out"]["attacked"]
    assert phased.about["held_out"]["attacked"] == attacked
    assert set(attacked) == {"FGSM 8/255"}  # of the phase that the purifier comes from


@pytest.mark.slow
def test_a_phase_goes_on_from_the_best_purifier_or_from_the_last(
    ten: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_folder, "score", lambda figures: 1 / figures["step"])  # the first one is the best
    began, trained = {}, {}
    for goes_on_from in ("last", "best"):
        # the second phase changes nothing, so that its weights show where it began
        phases = (Phase("first", 2), Phase("second", 1, goes_on_from=goes_on_from, learning_rate=1e-12))
        settings = config(phases=phases, epochs=1, ema=0.0, network=tiny.NETWORK, objective=ObjectiveConfig(l1=1.0))
        run = tmp_path / goes_on_from
        train(settings, ten, run, max_steps=8)
        trained = {name: load_purifier(run / f"{name}.safetensors") for name in ("last", "purifier")}
        train(settings, ten, run)
        began[goes_on_from] = load_purifier(run / "last.safetensors").net.state_dict()
    assert (trained["purifier"].about["step"], trained["last"].about["step"]) == (4, 8)
    for goes_on_from, name in (("last", "last"), ("best", "purifier")):
        for key, value in trained[name].net.state_dict().items():
            torch.testing.assert_close(began[goes_on_from][key], value, rtol=0, atol=1e-8)
    assert not torch.equal(began["last"]["stem.weight"], began["best"]["stem.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("stops", [(3, 4, 12, 13), (11, 14)])
def test_a_training_that_was_stopped_in_any_phase_ends_like_one_that_was_not(
    stops: tuple[int, ...], ten: Path, in_one_go: Path, tmp_path: Path
) -> None:
    for stop in (*stops, None):
        train(THREE, ten, tmp_path / "run", max_steps=stop)
    for name in ("last", "purifier"):
        assert_same_weights(in_one_go / f"{name}.safetensors", tmp_path / "run" / f"{name}.safetensors")
    one, two = (load_purifier(run).about["held_out"] for run in (in_one_go, tmp_path / "run"))
    assert one == two


@pytest.mark.slow
@pytest.mark.parametrize(("last_saved", "killed_at"), [(4, 7), (12, 14), (9, 11)])
def test_a_training_that_was_killed_in_any_phase_is_resumed_as_if_it_had_not_been_killed(
    last_saved: int, killed_at: int, ten: Path, in_one_go: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    train(THREE, ten, run, max_steps=last_saved)
    saved = (run / "state.pt").read_bytes()
    train(THREE, ten, run, max_steps=killed_at)
    if last_saved > 4:  # else the state that the second phase began with was saved since
        (run / "state.pt").write_bytes(saved)
    train(THREE, ten, run)
    for name in ("last", "purifier"):
        assert_same_weights(in_one_go / f"{name}.safetensors", run / f"{name}.safetensors")


def test_the_log_and_the_figures_name_the_phase(in_one_go: Path) -> None:
    lines = losses(in_one_go)
    assert [line["phase"] for line in lines if "held_out" in line] == ["denoise", *["guide"] * 2, *["broaden"] * 2]
    steps = {line["step"]: line for line in lines if "generator" in line}
    assert {step: line["phase"] for step, line in steps.items()} == {10: "guide", 20: "broaden"}
    assert load_purifier(in_one_go).about["phase"] == load_purifier(in_one_go).about["held_out"]["phase"] == "broaden"
    assert ", in phase broaden" in (in_one_go / "card.md").read_text()


@pytest.mark.slow
def test_a_phase_ends_when_it_gets_no_better_and_the_next_one_begins(ten: Path, tmp_path: Path) -> None:
    phases = (Phase("first", 10, learning_rate=1e-12), Phase("second", 10, learning_rate=1e-12))
    quick = {"network": tiny.NETWORK, "objective": ObjectiveConfig(l1=1.0), "validation_eps": (8 / 255,)}
    settings = config(phases=phases, epochs=1, patience=2, ema=0.0, **quick)
    for stop in (6, 41, None):
        result = train(settings, ten, tmp_path / "run", max_steps=stop)
    validated = [line["step"] for line in losses(tmp_path / "run") if "held_out" in line]
    assert [step for step in validated if step % 4 == 0] == [4, 8, 12, 44, 48, 52]
    assert result.steps == 52
    assert train(settings, ten, tmp_path / "run").seconds == 0


def test_a_phase_with_pixel_terms_alone_learns_from_the_pixels_alone() -> None:
    objective = ObjectiveConfig(gan=1.0, l1=0.0, l2=1000.0, agreement=1.0, discriminator_width=4)
    phases = (Phase("denoise", 1, terms=("l2",)), Phase("guide", 1))
    first, second = trainers(config(objective=objective, phases=phases, epochs=1), 5)
    terms = [first.step(tiny_images(2), step) for step in range(5)]
    assert [set(found) for found in terms] == [{"generator", "l2"}] * 5
    assert terms[0]["generator"] == pytest.approx(1000 * terms[0]["l2"], rel=1e-5)
    for step in range(5, 10):
        assert set(second.step(tiny_images(2), step)) == {"generator", "l2", "gan", "agreement", "discriminator"}
    with pytest.raises(ConfigError, match="phase denoise: terms names l2, whose weight in objective is 0"):
        config(objective=ObjectiveConfig(l1=0.0, agreement=1.0), phases=phases, epochs=1)


def test_a_phase_says_what_changes_and_takes_the_rest_from_the_recipe() -> None:
    first, second, third = (phase.config for phase in plan_phases(THREE, 4))
    assert first.objective == ObjectiveConfig(l1=100.0, discriminator_width=4)
    assert replace(second, learning_rate=2e-3, identity_share=0.3, classifiers=THREE.classifiers, epochs=1) == replace(
        THREE, phases=()
    )
    assert third.objective == replace(THREE.objective, l1=50.0)
    assert third.classifiers == THREE.classifiers
    assert (third.schedule, len(third.attacks)) == ("constant", 1)
    larger = replace(THREE, phases=(*THREE.phases[:2], replace(THREE.phases[2], resize=96, image_size=64)))
    sizes = [(phase.config.resize, phase.config.image_size) for phase in plan_phases(larger, 4)]
    assert sizes == [(THREE.resize, THREE.image_size)] * 2 + [(96, 64)]
    assert from_dict(TrainConfig, to_dict(THREE)) == THREE


def learning_rates(settings: TrainConfig, steps_per_epoch: int) -> list[float]:
    rates = []
    for made in trainers(settings, steps_per_epoch):
        for step in range(made.phase.begin, made.phase.end):
            made.set_learning_rate(step)
            rates.append(made.optimiser_g.param_groups[0]["lr"] / settings.learning_rate)
    return rates


def test_a_cosine_schedule_lasts_one_phase_or_several() -> None:
    def cosine(steps: int) -> list[float]:
        return [0.5 * (1 + math.cos(math.pi * step / steps)) for step in range(steps)]

    apart = (Phase("a", 1), Phase("b", 1), Phase("c", 2))
    settings = config(schedule="cosine", epochs=1, phases=apart)
    assert learning_rates(config(schedule="cosine", epochs=2), 5) == pytest.approx(cosine(10))
    assert learning_rates(settings, 5) == pytest.approx(cosine(5) + cosine(5) + cosine(10))
    together = (apart[0], replace(apart[1], continues_schedule=True), apart[2])
    assert learning_rates(replace(settings, phases=together), 5) == pytest.approx(cosine(10) + cosine(10))
    together = (apart[0], apart[1], replace(apart[2], continues_schedule=True))
    assert learning_rates(replace(settings, phases=together), 5) == pytest.approx(cosine(5) + cosine(15))
    half = (replace(apart[0], learning_rate=1e-4), replace(apart[1], schedule="constant"))
    assert learning_rates(replace(settings, phases=half), 5) == pytest.approx([r / 2 for r in cosine(5)] + [1.0] * 5)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"epochs": 3}, "epochs: each phase has its own"),
        ({"phases": (Phase("one", 1), Phase("one", 1))}, "two of one, one have the same name"),
        ({"phases": (Phase("one", 1, goes_on_from="best"),)}, "goes_on_from is for the phases after the first"),
        ({"phases": (Phase("one", 1, continues_schedule=True),)}, "continues_schedule is for the phases after"),
        ({"phases": (Phase("one", 1, classifiers=("vgg11",)),)}, "phase one: the recipe has no classifier 'vgg11'"),
        ({"phases": (Phase("one", 1, terms=("l2",)),)}, "phase one: terms names l2"),
        ({"phases": (Phase("one", 1, learning_rate=0.0),)}, "phase one: learning_rate must be positive"),
        ({"phases": (Phase("one", 1, growth_epochs=1),)}, "phase one: growth_epochs: no attack goes through"),
        ({"phases": (Phase("one", 1), Phase("two", 1, attacks=(THROUGH,))), "cached_attacks": 1}, "phase two: cached"),
        (
            {"phases": (Phase("one", 1), Phase("two", 1, attacks=(TrainingAttack("fgsm", eps=(0.1, 0.1)),)))}
            | {"cached_attacks": 1},
            "phases with other attacks or classifiers",
        ),
    ],
)
def test_phases_that_cannot_work_are_refused_by_name(changes: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(**{"phases": (Phase("one", 1),), "epochs": 1, **changes})


@pytest.mark.parametrize("key", ["denoise_epochs", "draw_epochs", "read_epochs"])
def test_a_key_of_an_earlier_version_is_refused_with_what_to_write_instead(key: str) -> None:
    recipe = to_dict(config())
    with pytest.raises(ConfigError, match=f"unknown key {key}") as caught:
        from_dict(TrainConfig, {**recipe, key: 1})
    assert "write phases" in caught.value.hint
    with pytest.raises(ConfigError, match=r"unknown key phases\.objective\.l3"):
        from_dict(TrainConfig, {**recipe, "phases": [{"name": "one", "epochs": 1, "objective": {"l3": 1.0}}]})
