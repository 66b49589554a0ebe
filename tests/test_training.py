import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from purifyctl.checkpoint import load_purifier, save_purifier, shipped_checkpoint
from purifyctl.classifiers import load_classifier
from purifyctl.config import (
    ClassifierConfig,
    NetworkConfig,
    ObjectiveConfig,
    TrainConfig,
    TrainingAttack,
    from_dict,
    read_recipe,
)
from purifyctl.errors import ConfigError, TrainingError
from purifyctl.sources import list_images
from purifyctl.sources.sketch import count_known
from purifyctl.training import run_folder, train, train_recipe
from purifyctl.training.batches import TrainingBatches, split
from purifyctl.training.cache import AttackCache
from purifyctl.training.trainer import Trainer
from purifyctl.training.workers import Workers
from tests import tiny

ROOT = Path(__file__).parents[1]


def config(**changes: object) -> TrainConfig:
    """Every term of the objective, in seconds."""
    settings = {
        "network": NetworkConfig(kind="unet", width=4, depth=5),
        "classifiers": (ClassifierConfig("tests.tiny:classifier"),),
        "attacks": (
            TrainingAttack("fgsm", eps=(4 / 255, 8 / 255)),
            TrainingAttack("pgd", eps=(4 / 255, 8 / 255), steps=2),
        ),
        "objective": ObjectiveConfig(
            gan=1.0, l1=100.0, perceptual=1.0, classifier=1.0, agreement=0.5, discriminator_width=4
        ),
        "resize": 48,
        "image_size": 32,
        "batch_size": 2,
        "epochs": 3,
        "identity_share": 0.3,
        "ema": 0.9,
        "held_out": 0.2,
        **changes,
    }
    return TrainConfig(**settings)


def trainer(settings: TrainConfig) -> Trainer:
    classifiers = [load_classifier(c.name) for c in settings.classifiers]
    return Trainer(settings, classifiers, 10, Workers(torch.device("cpu")))


def losses(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_training_writes_a_checkpoint_that_says_how_it_was_made(photos: Path, tmp_path: Path) -> None:
    result = train(config(), photos, tmp_path / "run")
    last, best = (load_purifier(tmp_path / "run" / f"{name}.safetensors") for name in ("last", "purifier"))
    assert result.steps == last.about["step"] == last.about["total_steps"] == 12
    assert best.about["recipe"]["objective"]["l1"] == 100
    assert best.about["held_out"] == result.held_out
    assert count_known(list_images(photos), best.about["photographs"]) == len(list_images(photos))
    assert result.held_out["n"] == 2
    assert result.held_out["labels"] == "predicted when clean"
    last = [line for line in losses(tmp_path / "run") if "generator" in line][-1]
    assert set(last) == {"step", "generator", "l1", "gan", "perceptual", "classifier", "agreement", "discriminator"}


def test_a_training_that_was_stopped_ends_like_one_that_was_not(photos: Path, tmp_path: Path) -> None:
    train(config(), photos, tmp_path / "whole")
    for stop in (5, 7, None):
        train(config(), photos, tmp_path / "stopped", max_steps=stop)
    whole, stopped = (
        load_purifier(tmp_path / name / "last.safetensors").net.state_dict() for name in ("whole", "stopped")
    )
    for name, value in whole.items():
        assert torch.equal(value, stopped[name]), name
    logged = {line["step"]: line for line in losses(tmp_path / "stopped") if "generator" in line}
    for line in losses(tmp_path / "whole"):
        if "generator" in line:
            assert logged[line["step"]] == line


@pytest.mark.parametrize("cached", [0, 1])
def test_a_training_that_was_killed_goes_on_as_if_it_had_not_been(photos: Path, tmp_path: Path, cached: int) -> None:
    settings = config(cached_attacks=cached, attacks=(TrainingAttack("pgd", eps=(4 / 255, 8 / 255), steps=2),))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    train(settings, photos, whole)
    train(settings, photos, killed, max_steps=5)
    saved = (killed / "state.pt").read_bytes()
    train(settings, photos, killed, max_steps=10)  # steps 6 to 10 are done, logged, cached, and then lost
    (killed / "state.pt").write_bytes(saved)
    with (killed / "log.jsonl").open("a") as log:
        log.write('{"step": 11, "gener')
    train(settings, photos, killed)
    for name in ("last", "purifier"):
        one, two = (load_purifier(run / f"{name}.safetensors") for run in (whole, killed))
        assert one.about["step"] == two.about["step"]
        for key, value in one.net.state_dict().items():
            assert torch.equal(value, two.net.state_dict()[key]), key
    logged = [line for line in losses(killed) if "held_out" in line]
    assert [line for line in logged if line["step"] % 4 == 0] == [line for line in losses(whole) if "held_out" in line]


def test_a_finished_training_is_not_gone_on_with(photos: Path, tmp_path: Path) -> None:
    settings = config(learning_rate=1e-12, epochs=20, patience=1, ema=0.0)
    first = train(settings, photos, tmp_path / "run")
    again = train(settings, photos, tmp_path / "run")
    assert again.steps == first.steps == 8
    assert again.held_out == first.held_out


def test_a_stop_between_looks_changes_neither_the_best_purifier_nor_the_patience(photos: Path, tmp_path: Path) -> None:
    settings = config(learning_rate=1e-12, epochs=6, patience=3, ema=0.0)
    for stop in (2, 3, 5, 6, 7, None):
        result = train(settings, photos, tmp_path / "run", max_steps=stop)
    assert result.steps == 16  # the first look is the best; three more are no better
    assert result.held_out["step"] == 4


def test_a_purifier_that_a_stop_shows_to_be_better_is_not_kept_between_looks(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.5, 0.9, 0.4])  # of the first look, of the stop between looks, of the second look
    monkeypatch.setattr(run_folder, "score", lambda figures: memory.setdefault(figures["step"], next(scores, 0.0)))
    memory: dict[int, float] = {}
    settings = config(epochs=2, ema=0.0)
    train(settings, photos, tmp_path / "run", max_steps=6)
    result = train(settings, photos, tmp_path / "run")
    assert result.held_out["step"] == load_purifier(tmp_path / "run").about["step"] == 4


def test_a_training_goes_on_after_recipes_have_got_new_keys_and_names_those_that_differ(
    photos: Path, tmp_path: Path
) -> None:
    train(config(), photos, tmp_path / "run", max_steps=2)
    file = tmp_path / "run" / "training.json"
    begun = json.loads(file.read_text())
    del begun["recipe"]["beta2"]  # as an older version left it
    file.write_text(json.dumps(begun))
    assert train(config(), photos, tmp_path / "run", max_steps=3).steps == 3
    with pytest.raises(ConfigError, match=r"another recipe: seed was 0, is 1\."):
        train(config(seed=1), photos, tmp_path / "run")


def test_a_call_that_has_nothing_to_do_still_tells_the_figures(photos: Path, tmp_path: Path) -> None:
    first = train(config(), photos, tmp_path / "run", max_steps=2)
    again = train(config(), photos, tmp_path / "run", max_steps=2)
    assert again.held_out == first.held_out != {}


def test_folders_that_a_training_would_harm_are_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--out is the folder of the photographs"):
        train(config(), photos, photos)
    train(config(), photos, tmp_path / "run", max_steps=1)
    (tmp_path / "run" / "state.pt").unlink()
    before = (tmp_path / "run" / "purifier.safetensors").read_bytes()
    with pytest.raises(ConfigError, match=r"no state\.pt to go on from"):
        train(config(), photos, tmp_path / "run")
    assert (tmp_path / "run" / "purifier.safetensors").read_bytes() == before


def test_a_purifier_that_starts_from_another_owns_up_to_its_photographs_and_guides(
    photos: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(photos, elsewhere)
    for n, file in enumerate(list_images(elsewhere)):
        file.file.rename(file.file.with_name(f"other-{n}.jpg"))
    train(config(), photos, tmp_path / "first", max_steps=1)
    settings = config(start=str(tmp_path / "first"), classifiers=(ClassifierConfig("tests.tiny:birds"),))
    train(settings, elsewhere, tmp_path / "second", max_steps=1)
    second = load_purifier(tmp_path / "second")
    assert second.guided_by == ["tests.tiny:classifier", "tests.tiny:birds"]
    assert str(tmp_path) not in json.dumps(second.about)  # a checkpoint travels, and folders do not
    for known in (photos, elsewhere):
        assert count_known(list_images(known), second.photographs) == len(list_images(known))
    save_purifier(tmp_path / "untold.safetensors", second.net, second.network, {})
    untold = config(start=str(tmp_path / "untold.safetensors"))
    train(untold, photos, tmp_path / "third", max_steps=1)
    assert load_purifier(tmp_path / "third").photographs is None


def test_ctrl_c_saves_the_step_and_exits_with_130(photos: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        "resize = 48\nimage_size = 32\nbatch_size = 2\nepochs = 100000\nvalidate_every = 100000\n"
        '[network]\nkind = "residual"\nwidth = 8\ndepth = 2\n[[classifiers]]\nname = "tests.tiny:classifier"\n'
        '[[attacks]]\nkind = "fgsm"\neps = ["4/255", "8/255"]\n'
    )
    words = ("train", recipe, "--photos", photos, "--out", tmp_path / "run", "--max-steps", 100_000)
    process = subprocess.Popen(
        [sys.executable, "-m", "purifyctl", *map(str, words)], cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    log = tmp_path / "run" / "log.jsonl"
    deadline = time.monotonic() + 60
    while not (log.exists() and log.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    saved = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["step"]
    assert saved == load_purifier(tmp_path / "run").about["step"] >= 10


def test_a_run_folder_goes_on_only_with_its_own_recipe_and_photographs(photos: Path, tmp_path: Path) -> None:
    train(config(), photos, tmp_path / "run", max_steps=1)
    with pytest.raises(ConfigError, match="another recipe"):
        train(config(learning_rate=1e-3), photos, tmp_path / "run")
    shutil.copy(photos / "cats" / "1.jpg", photos / "cats" / "more.jpg")
    with pytest.raises(ConfigError, match="other photographs"):
        train(config(), photos, tmp_path / "run")


def test_held_out_photographs_stay_held_out_when_others_are_added(photos: Path) -> None:
    files = list_images(photos)
    training, held_out = split(files, 0.3, seed=0)
    assert len(held_out) == 3
    assert {*training, *held_out} == set(files)
    assert not set(training) & set(held_out)
    again = split(files[:-1], 0.3, seed=0)[1]
    assert len(set(again) & set(held_out)) >= 2


def test_the_loss_terms_are_weighted_as_the_recipe_says(photos: Path) -> None:
    settings = config(attacks=(TrainingAttack("fgsm", eps=(8 / 255, 8 / 255)),))
    found = trainer(settings).step(torch.rand(2, 3, 32, 32), 0)
    terms = found["gan"] + 100 * found["l1"] + found["perceptual"] + found["classifier"]
    expected = terms + 0.5 * found["agreement"]
    assert found["generator"] == pytest.approx(expected, rel=1e-5)


def test_the_first_epochs_learn_from_the_pixels_alone_where_the_recipe_says_so() -> None:
    objective = ObjectiveConfig(gan=1.0, l1=0.0, l2=1000.0, agreement=1.0, discriminator_width=4)
    made = trainer(config(objective=objective, denoise_epochs=1, epochs=2))  # of 10 steps
    terms = [made.step(tiny_images(2), step) for step in range(10)]
    assert [set(found) for found in terms[:5]] == [{"generator", "l2"}] * 5
    assert [set(found) for found in terms[5:]] == [{"generator", "l2", "gan", "agreement", "discriminator"}] * 5
    assert terms[0]["generator"] == pytest.approx(1000 * terms[0]["l2"], rel=1e-5)
    with pytest.raises(ConfigError, match="denoise_epochs"):
        config(objective=ObjectiveConfig(l1=0.0, agreement=1.0), denoise_epochs=1)
    with pytest.raises(ConfigError, match="denoise_epochs"):
        config(denoise_epochs=3, epochs=3)


REDRAW = NetworkConfig("redraw", width=8, depth=2, reduce=2, classes=10)
THROUGH = TrainingAttack("pgd", eps=(8 / 255, 8 / 255), steps=1, through="purifier")


def test_a_purifier_that_redraws_learns_to_draw_and_to_read_apart_and_then_together() -> None:
    objective = ObjectiveConfig(l1=0.0, l2=1.0, agreement=1.0)
    settings = config(network=REDRAW, objective=objective, attacks=(THROUGH,), draw_epochs=2, read_epochs=2, epochs=5)
    made = trainer(settings)  # of 10 steps

    def learned_at(step: int) -> tuple[set[str], set[str]]:
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
    parts, _ = learned_at(8)
    assert parts >= {"stem", "down", "judge", "mixture", "patterns"}


def test_nothing_is_attacked_while_drawing_is_learned_and_the_reader_alone_while_reading_is() -> None:
    settings = config(
        network=REDRAW, attacks=(THROUGH,), draw_epochs=2, read_epochs=2, growth_epochs=1, epochs=5, identity_share=0.0
    )
    made = trainer(settings)  # of 10 steps
    calls = []
    made._classifiers[0].net.register_forward_pre_hook(lambda *_: calls.append(1))
    x = torch.full((4, 3, 32, 32), 0.5)
    moved = [float((attacked_by(made, x, step) - x).abs().max()) * 255 for step in (0, 3, 4, 5, 7)]
    assert moved == pytest.approx([0, 0, 4, 8, 8], abs=1e-3)
    assert not calls
    assert float((attacked_by(made, x, 8) - x).abs().max()) * 255 == pytest.approx(8, abs=1e-3)
    assert calls


def learning_rates(settings: TrainConfig) -> list[float]:
    made = trainer(settings)  # of 10 steps
    rates = []
    for step in range(10):
        made._schedule(step)
        rates.append(made.optimiser_g.param_groups[0]["lr"] / settings.learning_rate)
    return rates


def test_a_cosine_schedule_lasts_the_whole_training_and_each_part_of_one_that_redraws() -> None:
    whole = [0.5 * (1 + math.cos(math.pi * step / 10)) for step in range(10)]
    part = [0.5 * (1 + math.cos(math.pi * step / 5)) for step in range(5)]
    assert learning_rates(config(schedule="cosine", denoise_epochs=1, epochs=2)) == pytest.approx(whole)
    apart = config(network=REDRAW, objective=ObjectiveConfig(l1=0.0, agreement=1.0), draw_epochs=1, epochs=2)
    assert learning_rates(replace(apart, schedule="cosine")) == pytest.approx(part + part)


def test_parts_of_a_training_that_its_network_does_not_have_are_refused() -> None:
    for changes in ({"draw_epochs": 1}, {"read_epochs": 1}):
        with pytest.raises(ConfigError, match="draw_epochs and read_epochs are for"):
            config(**changes)
    with pytest.raises(ConfigError, match="epochs is less than all"):
        config(network=REDRAW, draw_epochs=2, read_epochs=2, epochs=3)
    with pytest.raises(ConfigError, match="which must be positive"):
        config(network=REDRAW, objective=ObjectiveConfig(l1=1.0), read_epochs=1, epochs=2)
    with pytest.raises(ConfigError, match="are for redraw"):
        NetworkConfig("residual", reduce=4)
    with pytest.raises(ConfigError, match="has 10 classes") as caught:
        trainer(config(network=replace(REDRAW, classes=1000)))
    assert "network.classes = 10" in caught.value.hint


def test_a_classifier_that_sees_the_centre_guides_by_its_own_crop() -> None:
    objective = ObjectiveConfig(l1=0.0, classifier=1.0)
    found = {}
    for sees in ("all", "centre"):
        made = trainer(config(objective=objective, classifier_sees=sees, network=tiny.NETWORK, identity_share=0.0))
        seen = []
        made._classifiers[0].crop_pct = 0.5
        made._classifiers[0].net.register_forward_pre_hook(
            lambda _, inputs, seen=seen: seen.append(inputs[0].shape[-1])
        )
        made.step(tiny_images(2), 0)
        found[sees] = set(seen)
    assert found == {"all": {32}, "centre": {16}}


def attacked_by(made: Trainer, x: torch.Tensor, step: int, places: tuple[int, ...] = ()) -> torch.Tensor:
    y = torch.zeros(len(x), dtype=torch.int64)
    return made._attacked(x, y, made._classifiers[0], np.random.default_rng(step), places, step)


def tiny_images(n: int) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 32, 32), generator=torch.Generator().manual_seed(0)) / 255


def test_the_identity_share_of_images_is_left_clean() -> None:
    made = trainer(config(identity_share=0.5))
    x = tiny_images(8)
    shares = [(attacked_by(made, x, step) == x).flatten(1).all(dim=1).float().mean().item() for step in range(40)]
    assert np.mean(shares) == pytest.approx(0.5, abs=0.1)


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
    made = trainer(settings)
    calls = [0, 0]
    for i, classifier in enumerate(made._classifiers):
        classifier.net.register_forward_pre_hook(lambda *_, i=i: calls.__setitem__(i, calls[i] + 1))
    for step in range(20):
        made.step(torch.rand(2, 3, 32, 32), step)
    assert min(calls) >= 5


def test_averaged_weights_are_what_a_training_keeps(photos: Path, tmp_path: Path) -> None:
    settings = config(ema=0.5, epochs=1)
    train(settings, photos, tmp_path / "run")
    state = torch.load(tmp_path / "run" / "state.pt", weights_only=True)["networks"]
    kept = load_purifier(tmp_path / "run" / "last.safetensors").net.state_dict()
    one = trainer(settings)
    made = []
    for step in range(2):
        one.step(tiny_images(2), step)
        made.append({name: value.detach().clone() for name, value in one.generator.named_parameters()})
    for name, value in one.averaged.module.named_parameters():  # torch takes the first weights as they are
        torch.testing.assert_close(value, (made[0][name] + made[1][name]) / 2)
    for name, value in kept.items():
        assert torch.equal(value, state["averaged"][f"module.{name}"]), name
    assert any(not torch.equal(value, state["generator"][name]) for name, value in kept.items())


def test_the_best_purifier_is_kept_and_training_stops_when_it_gets_no_better(photos: Path, tmp_path: Path) -> None:
    # a learning rate that changes nothing: every look after the first is no better
    settings = config(learning_rate=1e-12, epochs=20, patience=2, ema=0.0)
    result = train(settings, photos, tmp_path / "run")
    looks = [line["held_out"] for line in losses(tmp_path / "run") if "held_out" in line]
    assert len(looks) == 3
    assert result.steps == looks[-1]["step"] < 80
    assert load_purifier(tmp_path / "run").about["held_out"]["step"] == looks[0]["step"]
    assert load_purifier(tmp_path / "run" / "last.safetensors").about["step"] == looks[-1]["step"]


def test_a_training_leaves_plots_pictures_and_a_card(photos: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    train(config(epochs=2), photos, run)
    board = EventAccumulator(str(run / "tensorboard")).Reload()
    assert {"loss/gan", "loss/discriminator", "loss/l1", "held_out/score"} <= set(board.Tags()["scalars"])
    assert len(list((run / "pictures").glob("*.png"))) == 2
    card = (run / "card.md").read_text()
    assert "tests.tiny:classifier" in card
    assert "95 % Wilson" in card
    assert '"l1": 100.0' in card


def test_a_training_starts_from_another_ones_weights(photos: Path, tmp_path: Path) -> None:
    start = tiny.checkpoint(tmp_path / "first")
    settings = config(network=tiny.NETWORK, start=str(start), learning_rate=1e-12, ema=0.0, epochs=1)
    train(settings, photos, tmp_path / "run")
    for name, value in load_purifier(tmp_path / "run").net.state_dict().items():
        torch.testing.assert_close(value, load_purifier(start).net.state_dict()[name])
    other = config(start=str(start))
    with pytest.raises(ConfigError, match="describes another"):
        train(other, photos, tmp_path / "other")


def test_cached_attacks_are_made_once_and_for_the_crop_that_is_shown(photos: Path, tmp_path: Path) -> None:
    files = list_images(photos)
    batches = TrainingBatches(files, batch_size=5, resize=48, crop=32, seed=0, variants=2)
    seen: dict[int, bytes] = {}
    with closing(batches.from_step(0)) as stream:
        for _ in range(5 * batches.steps_per_epoch):
            batch = next(stream)
            for place, crop in zip(batch.places, batch.x, strict=True):
                assert seen.setdefault(place, crop.numpy().tobytes()) == crop.numpy().tobytes()
    assert sorted(seen) == list(range(2 * len(files)))
    made = []
    alone = Workers(torch.device("cpu"))
    cache = AttackCache(tmp_path / "cache", 4, 32, "ours", alone)

    def make() -> torch.Tensor:
        made.append(1)
        return torch.full((2, 3, 32, 32), 7 / 255)

    for _ in range(3):
        assert torch.equal(cache.get([1, 3], make) * 255, torch.full((2, 3, 32, 32), 7.0))
    assert made == [1]
    again = AttackCache(tmp_path / "cache", 4, 32, "ours", alone)
    assert torch.equal(again.get([3], make) * 255, torch.full((1, 3, 32, 32), 7.0))
    assert made == [1]
    again.get([3, 0], lambda: torch.zeros(2, 3, 32, 32))  # one is missing: the other stays
    assert torch.equal(again.get([3], make) * 255, torch.full((1, 3, 32, 32), 7.0))
    for places, digest in ((5, "ours"), (4, "another's")):
        with pytest.raises(TrainingError, match="another recipe"):
            AttackCache(tmp_path / "cache", places, 32, digest, alone)


def test_a_training_on_cached_attacks_resumes_like_any_other(photos: Path, tmp_path: Path) -> None:
    settings = config(cached_attacks=1)
    train(settings, photos, tmp_path / "whole")
    for stop in (6, None):
        train(settings, photos, tmp_path / "stopped", max_steps=stop)
    whole, stopped = (load_purifier(tmp_path / name / "last.safetensors").net for name in ("whole", "stopped"))
    for name, value in whole.state_dict().items():
        assert torch.equal(value, stopped.state_dict()[name]), name


def test_a_training_reads_tar_shards(photos: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    with tarfile.open(shards / "0.tar", "w") as shard:
        shard.add(photos, "photos")
    result = train(config(epochs=1), shards, tmp_path / "run")
    assert result.steps == 4
    assert result.held_out["n"] == 2


@pytest.mark.slow
def test_two_processes_learn_what_one_does(photos: Path, tmp_path: Path) -> None:
    """Nothing random but the attack's choice and the identity share, which are drawn for the whole batch."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        "resize = 48\nimage_size = 32\nbatch_size = 4\nepochs = 3\nidentity_share = 0.3\nema = 0.5\n"
        '[network]\nkind = "residual"\nwidth = 8\ndepth = 2\n[[classifiers]]\nname = "tests.tiny:classifier"\n'
        '[objective]\nl1 = 1.0\nclassifier = 1.0\n[[attacks]]\nkind = "fgsm"\neps = ["4/255", "8/255"]\n'
    )
    words = ["-m", "purifyctl", "train", str(recipe), "--photos", str(photos), "--out"]
    one = [sys.executable, *words, str(tmp_path / "one")]
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    for command in (one, [*two, str(tmp_path / "two")]):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, env=environment)
        assert done.returncode == 0, done.stderr
    first, second = (load_purifier(tmp_path / name / "last.safetensors").net.state_dict() for name in ("one", "two"))
    start = trainer(read_recipe(recipe, TrainConfig)).generator.state_dict()
    moved = max(float((first[name] - value).abs().max()) for name, value in start.items())
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=moved / 100)
    looks = [line for line in losses(tmp_path / "two") if "held_out" in line]
    assert len(looks) == 3  # one process writes


def test_a_loss_that_is_no_number_stops_the_training_with_advice(photos: Path, tmp_path: Path) -> None:
    settings = config(learning_rate=1e30, epochs=20)
    with pytest.raises(TrainingError, match=r"loss became .* at step") as caught:
        train(settings, photos, tmp_path / "run")
    assert "learning_rate" in caught.value.hint
    made = trainer(settings)
    for step in range(40):
        before = {name: value.detach().clone() for name, value in made.generator.named_parameters()}
        try:
            made.step(tiny_images(2), step)
        except TrainingError:
            break
    assert step < 39
    for name, value in made.generator.named_parameters():
        assert torch.equal(value, before[name])  # what is no number never reaches the weights


@pytest.mark.parametrize("batch_size", [1, 4])
def test_photographs_that_cannot_be_read_give_their_place_to_others(photos: Path, batch_size: int) -> None:
    (photos / "cats" / "bad.jpg").write_bytes(b"not a photograph")
    (photos / "notes.txt").write_text("nor this")
    files = list_images(photos)
    bad = {"cats/bad.jpg", "notes.txt"}
    batches = TrainingBatches(files, batch_size=batch_size, resize=48, crop=32, seed=0, variants=1)
    with closing(batches.from_step(0)) as stream:
        for _ in range(2 * len(files) // batch_size):
            batch = next(stream)
            assert batch.x.shape == (batch_size, 3, 32, 32)
            assert not {str(files[photograph].path) for photograph in batch.places} & bad
    assert set(batches.unreadable) == bad
    assert all("no readable image header" in why for why in batches.unreadable.values())


def test_whole_grey_levels_are_drawn_up_to_the_recipes_budget() -> None:
    made = trainer(config(attacks=(TrainingAttack("fgsm", eps=(1 / 255, 3 / 255)),), identity_share=0.0))
    x = torch.round((tiny_images(4) * 0.5 + 0.25) * 255) / 255
    changes = [(attacked_by(made, x, step) - x).abs().amax((1, 2, 3)) for step in range(30)]
    assert {round(float(change) * 255) for change in torch.cat(changes)} == {1, 2, 3}


def test_a_folder_without_photographs_cannot_be_trained_on(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.txt", "b.txt", "c.txt"):
        (folder / name).write_text("no photograph")
    with pytest.raises(ConfigError, match="could be read"):
        train(config(), folder, tmp_path / "run")


def test_any_classifiers_layers_lend_their_features_by_name() -> None:
    objective = {"l1": 1.0, "perceptual": 1.0, "perceptual_backbone": "tests.tiny:classifier"}
    layers = {"0": 0.25, "2": 0.75}
    made = trainer(config(objective=ObjectiveConfig(**objective, perceptual_layers=layers)))
    x, other = tiny_images(2), tiny_images(4)[2:]
    features = [made._classifiers[0].net[: k + 1] for k in (0, 2)]  # the tiny classifier is the backbone's twin
    with torch.no_grad():
        terms = [torch.nn.functional.l1_loss(net(other), net(x)) for net in features]
    torch.testing.assert_close(made._perceptual[0](x, other), 0.25 * terms[0] + 0.75 * terms[1])
    with pytest.raises(ConfigError, match="no such layer"):
        trainer(config(objective=ObjectiveConfig(**objective, perceptual_layers={"nowhere": 1.0})))


def test_classifiers_get_their_weights_by_name_on_the_command_line(photos: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        "resize = 48\nimage_size = 32\nbatch_size = 2\n"
        '[network]\nkind = "residual"\nwidth = 8\ndepth = 2\n[[classifiers]]\nname = "tests.tiny:classifier"\n'
        '[[attacks]]\nkind = "fgsm"\neps = ["4/255", "8/255"]\n'
    )
    weights = tmp_path / "weights.pth"
    torch.save(load_classifier("tests.tiny:classifier").net.state_dict(), weights)
    words = ["train", recipe, "--photos", photos, "--out", tmp_path / "run", "--max-steps", 1, "--weights"]
    for given, code in ((f"tests.tiny:classifier={weights}", 0), ("resnet50=x.pth", 2)):
        command = [sys.executable, "-m", "purifyctl", *map(str, words), given]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
    assert "the recipe's classifiers are tests.tiny:classifier" in done.stderr
    recipe_used = load_purifier(tmp_path / "run").about["recipe"]
    assert recipe_used["classifiers"][0]["weights"] == weights.name  # checkpoints travel: no folders in them


@pytest.mark.slow
def test_the_smoke_recipe_purifies_held_out_photographs_better_than_nothing(tmp_path: Path) -> None:
    result = train_recipe(read_recipe(ROOT / "train" / "smoke.toml", TrainConfig), tmp_path / "run")
    for name, figures in result.held_out["attacked"].items():
        assert figures["purified_top1"] > figures["attacked_top1"], name


PARTS = ("fast", "finish", "broaden", "polish")  # of the shipped purifier's training


def test_the_shipped_purifier_was_made_with_the_recipes_in_the_folder() -> None:
    made = from_dict(TrainConfig, load_purifier(shipped_checkpoint()).about["recipe"])
    parts = [read_recipe(ROOT / "train" / f"{name}.toml", TrainConfig) for name in PARTS]
    last = parts[-1]
    assert [c.name for c in made.classifiers] == [c.name for c in last.classifiers]
    # where files lie depends on the machine
    assert made.start == Path(last.start).name
    assert replace(made, start=last.start, classifiers=last.classifiers) == last
    goes_on = ("start", "epochs", "denoise_epochs", "learning_rate", "identity_share", "validate_every", "classifiers")
    for earlier, later in itertools.pairwise(
        replace(part, objective=replace(part.objective, l2=1.0)) for part in parts
    ):
        assert replace(later, **{name: getattr(earlier, name) for name in goes_on}) == earlier
