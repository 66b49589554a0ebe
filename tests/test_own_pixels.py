"""Nothing resizes between purifier and classifier, and a build says so if the purifier does not know the classifier."""

from dataclasses import replace
from pathlib import Path

import pytest

from purifyctl.attacking import attack_folder
from purifyctl.checkpoint import save_purifier
from purifyctl.classifiers.classifier import MULTIPLE
from purifyctl.config import EngineConfig
from purifyctl.config.attack import AttackOptions
from purifyctl.config.build import BuildOptions
from purifyctl.config.evaluate import EvaluateOptions
from purifyctl.config.values import parse_square
from purifyctl.engine.bundle import Bundle
from purifyctl.engine.chosen import _config as engine_config
from purifyctl.engine.networks import load_networks, with_size
from purifyctl.errors import ConfigError
from purifyctl.evaluation.subject import load_subject
from purifyctl.shipped import shipped_checkpoint
from tests import tiny

AT_64 = "tests.test_fit:at_64"  # takes the middle 64 of 73 pixels


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny purifier, which takes multiples of 4 pixels. Read only."""
    return tiny.checkpoint(tmp_path_factory.mktemp("start"))


def test_an_engine_has_the_square_of_its_classifier_unless_another_is_asked_for(
    start: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for classifier, asked, side, warned in (
        (AT_64, 0, 72, False),
        (AT_64, 72, 72, False),
        (AT_64, 96, 96, True),
        ("tests.tiny:classifier", 0, 256, False),  # takes any size
        ("", 0, 256, False),
        ("", 64, 64, False),
    ):
        config = EngineConfig(classifier=classifier, image_size=asked, gate="none")
        assert with_size(config, load_networks(config, start)).image_size == side
        assert ("is resized from 84 to 64 pixels" in capsys.readouterr().err) == warned


def test_engine_recipes_leave_the_square_to_the_classifier_and_auto_wins_over_a_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "engine.toml"
    recipe.write_text("image_size = 96\n")
    assert engine_config(BuildOptions(), recipe).image_size == 96
    assert engine_config(BuildOptions(image_size=parse_square("auto")), recipe).image_size == 0
    assert engine_config(BuildOptions(image_size=parse_square("128")), None).image_size == 128
    assert engine_config(BuildOptions(), None).image_size == 0
    for text, words in (("small", "There is no size"), ("0", "There is no size"), ("original", "has one size")):
        with pytest.raises(ConfigError, match=words):
            parse_square(text)


def test_evaluate_and_attack_take_the_same_square(start: Path, photos: Path, tmp_path: Path) -> None:
    options = EvaluateOptions(checkpoint=start, classifier=AT_64)
    assert load_subject(options)[0].size == 72
    assert load_subject(replace(options, image_size=96))[0].size == 96
    assert load_subject(replace(options, image_size="original"))[0].size == "original"
    attack = AttackOptions(kind="fgsm", classifier=AT_64)
    assert attack_folder(photos, tmp_path / "one", attack).manifest["image_size"] == 80  # a multiple of 16
    through = replace(attack, through_purifier=start)
    assert attack_folder(photos, tmp_path / "two", through).manifest["image_size"] == 72


def test_without_a_purifier_the_square_is_one_that_the_shipped_purifier_takes() -> None:
    networks = load_networks(EngineConfig(gate="none"), shipped_checkpoint())
    assert networks.purifier.network.size_multiple == MULTIPLE


def test_a_manifest_says_what_the_purifier_was_fitted_to_and_what_to_do_if_that_is_another_classifier(
    tiny_bundle: Bundle,
) -> None:
    manifest = tiny_bundle.manifest
    classifier = manifest.networks["classifier"]
    assert manifest.misfit == ""  # a purifier that says nothing of its training
    fitted = replace(manifest, fitted_to={classifier.name: classifier.sha256})
    assert fitted.misfit == ""
    assert replace(manifest, fitted_to={classifier.name: ""}).misfit == ""  # made before hashes were kept
    assert replace(manifest, fitted_to={"another name": classifier.sha256}).misfit == ""  # the weights decide
    other = replace(manifest, fitted_to={"mobilenet_v2": "0" * 64})
    assert f"train fit --classifier {classifier.name} --photos DIR" in other.misfit
    assert other.misfit.startswith(f"The purifier was fitted to mobilenet_v2, and not to {classifier.name}. ")
    assert "3 to 24 %" in other.misfit
    assert "with these weights" in replace(manifest, fitted_to={classifier.name: "0" * 64}).misfit


def test_a_checkpoint_says_what_it_was_fitted_to(tmp_path: Path) -> None:
    from purifyctl.checkpoint import load_purifier

    assert load_purifier(shipped_checkpoint()).fitted_to == {
        "tf_efficientnet_lite0": "",
        "mobilenet_v2": "",
        "tf_efficientnet_lite2": "",
    }
    file = tmp_path / "purifier.safetensors"
    about = {"guided_by": ["one", "two"], "fitted_to": {"two": "ab"}}  # fitted to the second, from one for the first
    save_purifier(file, tiny.purifier(), tiny.NETWORK, about)
    assert load_purifier(file).fitted_to == {"two": "ab"}
