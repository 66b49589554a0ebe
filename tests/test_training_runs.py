"""A whole training: what it leaves, what it refuses, whose weights it starts from."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest
import torch

from purifyctl.checkpoint import load_purifier, save_purifier
from purifyctl.classifiers import load_classifier
from purifyctl.config import ClassifierConfig, TrainConfig, read_recipe
from purifyctl.errors import ConfigError, TrainingError
from purifyctl.sources import list_images
from purifyctl.sources.sketch import count_known
from purifyctl.training import train
from tests import tiny
from tests.commands import purifyctl, python
from tests.tiny_training import config, losses, tiny_images, trainer

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
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
    assert last["phase"] == result.held_out["phase"] == "train"
    assert set(last) - {"phase"} == {
        "step",
        "generator",
        "l1",
        "gan",
        "perceptual",
        "classifier",
        "agreement",
        "discriminator",
    }


@pytest.mark.slow
def test_a_purifier_that_starts_from_another_names_its_photographs_and_guides(photos: Path, tmp_path: Path) -> None:
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


def test_folders_that_a_training_would_harm_are_refused(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--out is the folder of the photographs"):
        train(config(), photos, photos)
    train(config(), photos, tmp_path / "run", max_steps=1)
    (tmp_path / "run" / "state.pt").unlink()
    before = (tmp_path / "run" / "purifier.safetensors").read_bytes()
    with pytest.raises(ConfigError, match=r"no state\.pt to resume from"):
        train(config(), photos, tmp_path / "run")
    assert (tmp_path / "run" / "purifier.safetensors").read_bytes() == before


def test_a_run_folder_is_resumed_only_with_its_own_recipe_and_photographs(photos: Path, tmp_path: Path) -> None:
    train(config(), photos, tmp_path / "run", max_steps=1)
    with pytest.raises(ConfigError, match="another recipe"):
        train(config(learning_rate=1e-3), photos, tmp_path / "run")
    shutil.copy(photos / "cats" / "1.jpg", photos / "cats" / "more.jpg")
    with pytest.raises(ConfigError, match="other photographs"):
        train(config(), photos, tmp_path / "run")


@pytest.mark.slow
def test_a_training_leaves_plots_pictures_and_a_card(photos: Path, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tmp_path / "run"
    train(config(epochs=2), photos, run)
    board = EventAccumulator(str(run / "tensorboard")).Reload()
    assert {"loss/gan", "loss/discriminator", "loss/l1", "held_out/score"} <= set(board.Tags()["scalars"])
    pictures = [file.read_bytes() for file in sorted((run / "pictures").glob("*.png"))]
    assert [image.encoded_image_string for image in board.Images("held_out")] == pictures
    assert len(pictures) == 2
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
    for name, value in one.averaged.module.named_parameters():  # torch takes the first weights unchanged
        torch.testing.assert_close(value, (made[0][name] + made[1][name]) / 2)
    for name, value in kept.items():
        assert torch.equal(value, state["averaged"][f"module.{name}"]), name
    assert any(not torch.equal(value, state["generator"][name]) for name, value in kept.items())


@pytest.mark.slow
def test_the_best_purifier_is_kept_and_training_stops_when_it_gets_no_better(photos: Path, tmp_path: Path) -> None:
    # a learning rate that changes nothing: every validation after the first is no better
    settings = config(learning_rate=1e-12, epochs=20, patience=2, ema=0.0)
    result = train(settings, photos, tmp_path / "run")
    validations = [line["held_out"] for line in losses(tmp_path / "run") if "held_out" in line]
    assert len(validations) == 3
    assert result.steps == validations[-1]["step"] < 80
    assert load_purifier(tmp_path / "run").about["held_out"]["step"] == validations[0]["step"]
    assert load_purifier(tmp_path / "run" / "last.safetensors").about["step"] == validations[-1]["step"]


def test_a_training_reads_archives(photos: Path, tmp_path: Path) -> None:
    archives = tmp_path / "archives"
    archives.mkdir()
    with tarfile.open(archives / "0.tar", "w") as archive:
        archive.add(photos, "photos")
    result = train(config(epochs=1), archives, tmp_path / "run")
    assert result.steps == 4
    assert result.held_out["n"] == 2


@pytest.mark.slow
def test_two_processes_learn_what_one_does(photos: Path, tmp_path: Path) -> None:
    """Only the attack's choice and the identity share are random, and they are sampled for the whole batch."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        "resize = 48\nimage_size = 32\nbatch_size = 4\nepochs = 3\nidentity_share = 0.3\nema = 0.5\n"
        '[network]\nkind = "residual"\nwidth = 8\ndepth = 2\n[[classifiers]]\nname = "tests.tiny:classifier"\n'
        '[objective]\nl1 = 1.0\nclassifier = 1.0\n[[attacks]]\nkind = "fgsm"\neps = ["4/255", "8/255"]\n'
    )
    words = ["-m", "purifyctl", "train", str(recipe), "--photos", str(photos), "--out"]
    one = python(*words, tmp_path / "one", "--processes", 1, OMP_NUM_THREADS="1")
    assert one.returncode == 0, one.stderr
    two = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words, tmp_path / "two"]
    done = python(*two, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    first, second = (load_purifier(tmp_path / name / "last.safetensors").net.state_dict() for name in ("one", "two"))
    start = trainer(read_recipe(recipe, TrainConfig)).generator.state_dict()
    moved = max(float((first[name] - value).abs().max()) for name, value in start.items())
    for name, value in first.items():
        torch.testing.assert_close(second[name], value, rtol=0, atol=moved / 100)
    validations = [line for line in losses(tmp_path / "two") if "held_out" in line]
    assert len(validations) == 3  # one process writes


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


def test_a_folder_without_photographs_cannot_be_trained_on(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        (folder / name).write_text("no photograph")
    with pytest.raises(ConfigError, match="could be read"):
        train(config(), folder, tmp_path / "run")


@pytest.mark.slow
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
        done = purifyctl(*words, given)
        assert done.returncode == code, done.stderr
    assert "the recipe's classifiers are tests.tiny:classifier" in done.stderr
    recipe_used = load_purifier(tmp_path / "run").about["recipe"]
    assert recipe_used["classifiers"][0]["weights"] == weights.name  # checkpoints travel: no folders in them
