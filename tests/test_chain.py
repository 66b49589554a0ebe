"""The chain gives the same images and classes whichever graphs it is made of."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from purifyctl.config import EngineConfig
from purifyctl.engine.build import build_engine
from purifyctl.engine.bundle import Bundle
from purifyctl.engine.chain import Chain, open_chain
from purifyctl.images.synthetic import natural_images
from tests import tiny

IMAGES = natural_images(3, tiny.SIZE)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder: Path = tmp_path_factory.mktemp("chain")
    config = EngineConfig(
        image_size=tiny.SIZE, batch_size=4, classifier="tests.tiny:classifier", fused=True, gate="none"
    )
    return build_engine(config, tiny.checkpoint(folder / "run"), folder / "bundle")


@pytest.fixture
def apart(bundle: Bundle) -> Iterator[Chain]:
    with open_chain(bundle, bundle.chain(apart=True)) as chain:
        yield chain


def test_a_chain_is_fused_unless_the_classifier_is_needed_apart(bundle: Bundle, apart: Chain) -> None:
    with open_chain(bundle) as fused:
        assert fused.fused
        assert fused.classifier is None
        assert list(fused.runners) == ["fused"]
    assert not apart.fused
    assert apart.classifier is apart.runners["classifier"]
    assert apart.purifier is apart.runners["purifier"]
    assert apart.device_id is None
    assert apart.concurrency == apart.purifier.concurrency


def test_a_fused_chain_gives_what_two_graphs_give(bundle: Bundle, apart: Chain) -> None:
    with open_chain(bundle) as fused:
        images, probabilities = fused.run(IMAGES)
        assert fused.purify(IMAGES)[1] is not None
    expected_images, expected = apart.run(IMAGES)
    assert np.abs(images.astype(int) - expected_images).max() <= 1
    assert np.abs(probabilities - expected).max() < 0.002


def test_purifying_and_classifying_apart_is_what_run_does(apart: Chain) -> None:
    purified, probabilities = apart.purify(IMAGES)
    assert probabilities is None
    images, together = apart.run(IMAGES)
    assert np.array_equal(images, purified)
    assert np.array_equal(together, apart.classify(purified))
    assert not np.array_equal(apart.classify(IMAGES), together)


def test_a_chain_that_only_purifies_gives_no_classes(bundle: Bundle, apart: Chain) -> None:
    with open_chain(bundle, bundle.chain(classify=False), batch_size=1) as purify:
        images, probabilities = purify.run(IMAGES[:1])
        assert probabilities is None
        assert purify.classify(IMAGES[:1]) is None
    assert np.abs(images.astype(int) - apart.purify(IMAGES[:1])[0]).max() <= 1


def test_a_fused_chain_classifies_nothing_else_than_what_it_has_purified(bundle: Bundle) -> None:
    with open_chain(bundle) as fused, pytest.raises(ValueError, match="only what it has purified"):
        fused.classify(IMAGES)
