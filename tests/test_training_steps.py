"""One step: which images are attacked and how, and which loss terms there are."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from purifyctl.classifiers import load_classifier
from purifyctl.config import ClassifierConfig, ObjectiveConfig, TrainingAttack
from purifyctl.errors import ConfigError
from purifyctl.training.clean import classify_clean
from purifyctl.training.objectives import StepData, build_objective
from tests import tiny
from tests.tiny_training import attacked_by, config, tiny_images, trainer


def test_the_loss_terms_are_weighted_as_the_recipe_says() -> None:
    settings = config(attacks=(TrainingAttack("fgsm", eps=(8 / 255, 8 / 255)),))
    found = trainer(settings).step(torch.rand(2, 3, 32, 32), 0)
    terms = found["gan"] + 100 * found["l1"] + found["perceptual"] + found["classifier"]
    expected = terms + 0.5 * found["agreement"]
    assert found["generator"] == pytest.approx(expected, rel=1e-5)


def test_a_classifier_that_sees_the_centre_guides_by_its_own_crop() -> None:
    objective = ObjectiveConfig(l1=0.0, classifier=1.0)
    found = {}
    for sees in ("all", "centre"):
        classifier = load_classifier("tests.tiny:classifier")
        settings = config(objective=objective, classifier_sees=sees, network=tiny.NETWORK, identity_share=0.0)
        made = trainer(settings, [classifier])
        seen = []
        classifier.crop_pct = 0.5
        classifier.net.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0].shape[-1]))
        made.step(tiny_images(2), 0)
        found[sees] = set(seen)
    assert found == {"all": {32}, "centre": {16}}


def test_the_identity_share_of_images_is_left_clean() -> None:
    made = trainer(config(identity_share=0.5))
    x = tiny_images(8)
    shares = [(attacked_by(made, x, step) == x).flatten(1).all(dim=1).float().mean().item() for step in range(40)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.1)


def test_the_identity_term_counts_the_pixels_of_clean_images_alone() -> None:
    settings = config(objective=ObjectiveConfig(l1=0.0, l2=1.0, identity=1.0))
    judge = build_objective(settings, [load_classifier("tests.tiny:classifier")], torch.device("cpu"))
    x = tiny_images(3)
    x_adv = x.clone()
    x_adv[0, 0, 0, 0] += 1 / 255  # one image of three is attacked, in one pixel
    purified = x + torch.tensor([0.1, 0.2, 0.0]).view(3, 1, 1, 1)
    found = judge.terms(StepData(x, x_adv, torch.zeros(3, 2), 0), purified, None)
    assert found["l2"].item() == pytest.approx((0.1**2 + 0.2**2) / 3, rel=1e-3)
    assert found["identity"].item() == pytest.approx(0.2**2 / 3, rel=1e-3)
    everything = judge.terms(StepData(x, x + 1 / 255, torch.zeros(3, 2), 0), purified, None)
    assert everything["identity"].item() == 0


def test_an_adaptive_attack_in_the_mix_goes_through_the_purifier() -> None:
    made = {}
    for through in ("classifier", "purifier"):
        attack = TrainingAttack("fgsm", eps=(8 / 255, 8 / 255), through=through)
        settings = config(attacks=(attack,), identity_share=0.0, network=tiny.NETWORK)
        one = trainer(settings)
        torch.nn.init.normal_(one.generator.head[1].weight, 0, 0.1)  # a purifier that does something
        made[through] = attacked_by(one, tiny_images(2), 0)
    assert not torch.equal(made["classifier"], made["purifier"])


def test_budgets_of_attacks_through_the_purifier_grow_from_nothing_and_others_do_not() -> None:
    attacks = {
        through: TrainingAttack("fgsm", eps=(8 / 255, 8 / 255), through=through)
        for through in ("classifier", "purifier")
    }
    largest = {}
    for through in attacks:  # beside one that goes through the purifier, or growth would be refused
        mix = (replace(attacks[through], share=1e6), attacks["purifier"])
        settings = config(attacks=mix, growth_epochs=1, epochs=2, identity_share=0.0, network=tiny.NETWORK)
        made = trainer(settings)  # of 10 steps
        torch.nn.init.normal_(made.generator.head[1].weight, 0, 0.1)
        x = torch.full((2, 3, 32, 32), 0.5)
        largest[through] = [float((attacked_by(made, x, step) - x).abs().max()) * 255 for step in (0, 2, 4, 9)]
    assert largest["purifier"] == pytest.approx([1.6, 4.8, 8, 8], abs=1e-3)
    assert min(largest["classifier"]) >= 7
    with pytest.raises(ConfigError, match="growth_epochs"):
        config(attacks=(attacks["classifier"],), growth_epochs=1)


def test_steps_take_turns_with_all_classifiers() -> None:
    settings = config(classifiers=(ClassifierConfig("tests.tiny:classifier"),) * 2, objective=ObjectiveConfig(l1=1.0))
    classifiers = [load_classifier(c.name) for c in settings.classifiers]
    made = trainer(settings, classifiers)
    calls = [0, 0]
    for i, classifier in enumerate(classifiers):
        classifier.net.register_forward_pre_hook(lambda *_, i=i: calls.__setitem__(i, calls[i] + 1))
    for step in range(20):
        made.step(torch.rand(2, 3, 32, 32), step)
    assert min(calls) >= 5


def test_whole_grey_levels_are_sampled_up_to_the_recipes_budget() -> None:
    made = trainer(config(attacks=(TrainingAttack("fgsm", eps=(1 / 255, 3 / 255)),), identity_share=0.0))
    x = torch.round((tiny_images(4) * 0.5 + 0.25) * 255) / 255
    changes = [(attacked_by(made, x, step) - x).abs().amax((1, 2, 3)) for step in range(30)]
    assert {round(float(change) * 255) for change in torch.cat(changes)} == {1, 2, 3}


def test_any_classifiers_layers_lend_their_features_by_name() -> None:
    objective = {"l1": 1.0, "perceptual": 1.0, "perceptual_backbone": "tests.tiny:classifier"}
    layers = {"0": 0.25, "2": 0.75}
    made = trainer(config(objective=ObjectiveConfig(**objective, perceptual_layers=layers)))
    x, other = tiny_images(2), tiny_images(4)[2:]
    features = [tiny.classifier()[: k + 1] for k in (0, 2)]  # the backbone's twins
    with torch.no_grad():
        terms = [torch.nn.functional.l1_loss(net(other), net(x)) for net in features]
    torch.testing.assert_close(made.objective.perceptual[0](x, other), 0.25 * terms[0] + 0.75 * terms[1])
    with pytest.raises(ConfigError, match="no such layer"):
        trainer(config(objective=ObjectiveConfig(**objective, perceptual_layers={"nowhere": 1.0})))


def test_fgsm_does_not_ask_the_classifier_again_about_images_whose_logits_are_known() -> None:
    x, sees = tiny_images(8), []
    settings = config(objective=ObjectiveConfig(l1=1.0), network=tiny.NETWORK, identity_share=0.5)
    made = trainer(replace(settings, attacks=settings.attacks[:1]))
    made.views[0].__self__.net.register_forward_pre_hook(lambda _, given: sees.append(len(given[0])))
    sampled = made.sample(len(x), np.random.default_rng(0), 0)
    n = int(sampled.attacked.sum())
    assert 0 < n < len(x)
    logits, known = classify_clean(made.views[0], x, made.phase.config.attacks, sampled)
    attacked = made.attack(x, logits.argmax(1), 0, sampled, (), known)
    assert sees == [n, len(x) - n]
    again = made.attack(x, logits.argmax(1), 0, sampled, ())
    assert sees == [n, len(x) - n, n]
    assert torch.equal(attacked, again)
    assert not torch.equal(attacked, x)
    torch.testing.assert_close(logits, made.views[0](x), rtol=1e-5, atol=1e-6)


def test_an_attack_from_a_random_start_asks_the_classifier_at_every_step() -> None:
    made = trainer(config(attacks=(TrainingAttack("pgd", eps=(8 / 255, 8 / 255), steps=2),), network=tiny.NETWORK))
    sampled = made.sample(2, np.random.default_rng(0), 0)
    assert classify_clean(made.views[0], tiny_images(2), made.phase.config.attacks, sampled)[1] == {}
