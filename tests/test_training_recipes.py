"""The recipes that come with purifyctl."""

from dataclasses import replace
from pathlib import Path

import pytest

from purifyctl.checkpoint import load_purifier
from purifyctl.config import TrainConfig, from_dict, read_recipe
from purifyctl.shipped import shipped_checkpoint
from purifyctl.training import train_recipe
from purifyctl.training.phases import plan_phases

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_smoke_recipe_purifies_held_out_photographs_better_than_nothing(tmp_path: Path) -> None:
    result = train_recipe(read_recipe(ROOT / "train" / "smoke.toml", TrainConfig), tmp_path / "run")
    for name, figures in result.held_out["attacked"].items():
        assert figures["purified_top1"] > figures["attacked_top1"], name


def test_the_shipped_purifier_was_made_with_the_recipe_in_the_folder() -> None:
    phases = plan_phases(read_recipe(ROOT / "train" / "shipped.toml", TrainConfig), 1)
    assert [phase.name for phase in phases] == ["denoise", "guide", "finish", "broaden", "polish"]
    # made as a chain of four recipes, before recipes had phases; this one was the last
    recipe = load_purifier(shipped_checkpoint()).about["recipe"]
    before = {key: recipe.pop(key) for key in ("denoise_epochs", "draw_epochs", "read_epochs") if key in recipe}
    assert not any(before.values())
    made, last = from_dict(TrainConfig, recipe), phases[-1].config
    assert [c.name for c in made.classifiers] == [c.name for c in last.classifiers]
    assert (made.start, phases[-1].goes_on_from) == ("purifier.safetensors", "best")
    # where files lie depends on the machine
    assert replace(made, start="", classifiers=last.classifiers) == last
    # keys that the file leaves out have the same value throughout
    changes = ("epochs", "learning_rate", "identity_share", "validate_every", "classifiers", "objective")
    for phase in phases:
        assert replace(phase.config, **{name: getattr(last, name) for name in changes}) == last
    assert {phase.config.objective.l2: phase.name for phase in phases} == {1000.0: "finish", 600.0: "polish"}
