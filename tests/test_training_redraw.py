"""A purifier that redraws: its two parts learn apart, and then together."""

from dataclasses import replace

import pytest
import torch

from purifyctl.config import NetworkConfig, ObjectiveConfig, Phase, TrainingAttack
from purifyctl.errors import ConfigError
from tests import tiny
from tests.tiny_training import attacked_by, config, tiny_images, trainers

REDRAW = NetworkConfig("redraw", width=8, depth=2, reduce=2, classes=10)
THROUGH = TrainingAttack("pgd", eps=(8 / 255, 8 / 255), steps=1, through="purifier")
PARTS = (
    Phase("draw", 2, learns="draw"),
    Phase("read", 2, learns="read", terms=("agreement",), growth_epochs=1),
    Phase("both", 1),
)


def test_a_purifier_that_redraws_learns_to_draw_and_to_read_apart_and_then_together() -> None:
    objective = ObjectiveConfig(l1=0.0, l2=1.0, agreement=1.0)
    settings = config(network=REDRAW, objective=objective, attacks=(THROUGH,), phases=PARTS, epochs=1)
    draw, read, both = trainers(settings, 2)

    def learned_at(step: int) -> tuple[set[str], set[str]]:
        made = next(made for made in (draw, read, both) if made.phase.begin <= step < made.phase.end)
        before = {name: p.detach().clone() for name, p in made.generator.named_parameters()}
        losses = made.step(tiny_images(4), step)
        moved = {name for name, p in made.generator.named_parameters() if not torch.equal(p, before[name])}
        return {name.partition(".")[0] for name in moved}, set(losses)

    for step in (0, 3):
        parts, losses = learned_at(step)
        assert "patterns" in parts
        assert not parts & {"stem", "down", "judge"}
        assert losses == {"generator", "l2", "agreement"}
    for step in (4, 7):
        assert learned_at(step) == ({"stem", "down", "judge"}, {"generator", "agreement"})
    both.generator.load_state_dict(draw.generator.state_dict())  # a fresh drawer's patterns are 0, and so are gradients
    parts, _ = learned_at(8)
    assert parts >= {"stem", "down", "judge", "mixture", "patterns"}


def test_nothing_is_attacked_while_drawing_is_learned_and_the_reader_alone_while_reading_is() -> None:
    objective = ObjectiveConfig(l1=100.0, agreement=0.5)
    settings = config(
        network=REDRAW, objective=objective, attacks=(THROUGH,), phases=PARTS, epochs=1, identity_share=0.0
    )
    classifier = tiny.animals().eval().requires_grad_(False)
    draw, read, both = trainers(settings, 2, [classifier])
    calls = []
    classifier.net.register_forward_pre_hook(lambda *_: calls.append(1))
    x = torch.full((4, 3, 32, 32), 0.5)

    def moved(step: int) -> float:
        made = next(made for made in (draw, read, both) if made.phase.begin <= step < made.phase.end)
        return float((attacked_by(made, x, step) - x).abs().max()) * 255

    assert [moved(step) for step in (0, 3, 4, 5, 7)] == pytest.approx([0, 0, 4, 8, 8], abs=1e-3)
    assert not calls
    assert moved(8) == pytest.approx(8, abs=1e-3)
    assert calls


def test_parts_of_a_training_that_its_network_does_not_have_are_refused() -> None:
    agreement = ObjectiveConfig(l1=0.0, agreement=1.0)
    for learns in ("draw", "read"):
        with pytest.raises(ConfigError, match=f'phase one: learns = "{learns}" is for networks of kind redraw'):
            config(objective=agreement, phases=(Phase("one", 1, learns=learns), Phase("two", 1)), epochs=1)
    with pytest.raises(ConfigError, match="which must be positive"):
        config(network=REDRAW, objective=ObjectiveConfig(l1=1.0), phases=(Phase("one", 1, learns="read"),), epochs=1)
    both = ObjectiveConfig(l1=1.0, agreement=1.0)
    with pytest.raises(ConfigError, match="agreement is the only loss term"):
        config(network=REDRAW, objective=both, phases=(Phase("one", 1, learns="read"),), epochs=1)
    with pytest.raises(ConfigError, match="no phase learns anything under attack"):
        config(network=REDRAW, objective=agreement, phases=(Phase("one", 1, learns="draw"),), epochs=1)
    with pytest.raises(ConfigError, match="are for redraw"):
        NetworkConfig("residual", reduce=4)
    with pytest.raises(ConfigError, match="has 10 classes") as caught:
        trainers(config(network=replace(REDRAW, classes=1000)), 1)
    assert "network.classes = 10" in caught.value.hint
