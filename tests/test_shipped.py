"""Which purifier ships for which classifier."""

from dataclasses import replace
from pathlib import Path

import pytest

from purifyctl.checkpoint import load_purifier
from purifyctl.config import ClassifierConfig
from purifyctl.shipped import shipped_checkpoint
from purifyctl.training.prepare import checkpoint_to_start_from
from tests.tiny_training import config

GENERAL = shipped_checkpoint()
FITTED = sorted((GENERAL.parent / "fitted").glob("*.safetensors"))


@pytest.mark.parametrize("file", FITTED, ids=lambda file: file.stem)
def test_a_fitted_purifier_is_named_after_the_classifier_that_guided_it(file: Path) -> None:
    purifier, general = load_purifier(file), load_purifier(GENERAL)
    assert file.stem in purifier.about["fitted_to"]
    assert shipped_checkpoint(ClassifierConfig(file.stem)) == file
    assert purifier.network == general.network  # so that `train fit` may begin with either
    assert f"`{file.stem}`" in (GENERAL.parent / "purifier.md").read_text()


@pytest.mark.parametrize("name", ["", "tf_efficientnet_lite0", "../purifier", "nets/mobilenet_v2.onnx"])
def test_other_classifiers_get_the_general_purifier(name: str) -> None:
    assert shipped_checkpoint(ClassifierConfig(name)) == GENERAL


def test_a_fit_begins_with_the_purifier_of_its_classifier_and_several_classifiers_with_the_general_one() -> None:
    recipe = replace(config(), start="shipped", network=load_purifier(GENERAL).network)
    one, two = (ClassifierConfig(name, "a.pth") for name in ("mobilenet_v2", "resnet18"))
    begun = {
        named: checkpoint_to_start_from(replace(recipe, classifiers=named)).sha256  # type: ignore[union-attr]
        for named in ((one,), (two,), (one, two))
    }
    general = load_purifier(GENERAL).sha256
    assert begun == {(one,): load_purifier(FITTED[0]).sha256, (two,): general, (one, two): general}
