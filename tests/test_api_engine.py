"""`purifyctl.Engine`: an open bundle."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

import purifyctl
from purifyctl.config import EngineConfig
from purifyctl.engine import trust
from purifyctl.engine.build import build_engine
from purifyctl.engine.bundle import Bundle
from purifyctl.engine.graphs import classifier_graph, purifier_graph
from purifyctl.engine.parity import TOLERANCES
from purifyctl.errors import (
    BackendError,
    BundleError,
    ConfigError,
    InputError,
)
from purifyctl.gate import load_gate
from purifyctl.images import Decoder
from purifyctl.images.synthetic import natural_images
from purifyctl.photographs import to_pixels, to_tensor
from purifyctl.run import run
from tests import tiny


def same(made: NDArray[np.uint8], reference: NDArray[np.uint8]) -> bool:
    """Within what FP32 engines may differ from torch."""
    change = np.abs(made.astype(int) - reference)
    return made.shape == reference.shape and change.max() <= 1 and change.mean() <= TOLERANCES["fp32"].mean_grey


@pytest.fixture(scope="module")
def engine(tiny_bundle: Bundle) -> purifyctl.Engine:
    with purifyctl.Engine(tiny_bundle.path) as opened:
        yield opened


@pytest.mark.slow
def test_engine_module_and_transform_give_the_pixels_that_run_writes(
    engine: purifyctl.Engine, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    images = natural_images(5, tiny.SIZE)
    (tmp_path / "photos").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / "photos" / f"{i}.png")
    run(tmp_path / "photos", tiny_bundle, tmp_path / "out")
    written = np.stack([np.asarray(Image.open(tmp_path / "out" / "images" / f"{i}.png")) for i in range(5)])
    assert not same(images, written)
    assert np.array_equal(engine(images), written)
    purifier = purifyctl.Purifier.from_checkpoint(tiny_bundle.path.parent / "run")
    assert same(to_pixels(purifier(to_tensor(images))), written)
    transform = purifyctl.PurifyTransform(purifier)
    assert same(np.stack([np.asarray(transform(Image.fromarray(image))) for image in images]), written)


def test_an_engine_fits_a_pil_image_as_run_fits_a_file(engine: purifyctl.Engine) -> None:
    for size in ((320, 240), (99, 250)):
        photo = tiny.photograph(size)
        fitted = engine.fit(photo)
        decoder = Decoder(size=tiny.SIZE, batch_size=1, threads=1)
        decoded = decoder.decode([np.frombuffer(tiny.encoded(photo, "PNG"), np.uint8)])
        assert fitted.mode == "RGB"
        assert np.abs(np.asarray(fitted).astype(int) - decoded.images[0]).mean() < 0.5


@pytest.mark.parametrize("batch_size", [None, 1, 3])
@pytest.mark.parametrize("n", [0, 1, 3, 4, 11])
def test_an_engine_takes_any_number_of_images(n: int, batch_size: int | None, tiny_bundle: Bundle) -> None:
    images = natural_images(11, tiny.SIZE)[:n]
    with purifyctl.Engine(tiny_bundle.path, batch_size=batch_size) as engine:
        purified, found = engine(images), engine.classify(images)
    assert purified.shape == (n, tiny.SIZE, tiny.SIZE, 3)
    assert purified.dtype == np.uint8
    assert n == 0 or same(purified, purifier_graph(tiny.purifier())(torch.from_numpy(images)).numpy())
    assert found.probabilities.shape == (n, 10)


def test_images_come_as_arrays_or_pil_images_alone_or_in_lists(engine: purifyctl.Engine) -> None:
    images = natural_images(5, tiny.SIZE)
    purified = engine(images)
    as_pil = [Image.fromarray(image) for image in images]
    for several in (list(images), as_pil, (as_pil[0], *images[1:]), images[:, ::-1][:, ::-1]):
        assert np.array_equal(engine(several), purified)
    for alone in (images[0], as_pil[0]):
        assert np.array_equal(engine(alone), purified[0])
    images.flags.writeable = False
    assert np.array_equal(engine(images), purified)
    assert engine([]).shape == (0, tiny.SIZE, tiny.SIZE, 3)


def test_what_is_classified_is_what_was_purified(engine: purifyctl.Engine) -> None:
    images, graph = natural_images(5, tiny.SIZE), classifier_graph(tiny.classifier())
    for purify, reference in ((True, engine(images)), (False, images)):
        found = engine.classify(images, purify=purify)
        assert np.array_equal(found.images, reference)
        assert np.allclose(found.probabilities, graph(torch.from_numpy(reference)).detach().numpy(), atol=1e-4)


def test_an_engine_says_how_much_each_image_looks_attacked(engine: purifyctl.Engine, tiny_bundle: Bundle) -> None:
    images = natural_images(6, tiny.SIZE)
    gate = load_gate(tiny_bundle.path.parent / "gate.safetensors")
    reference = torch.sigmoid(gate.net(to_tensor(images))).numpy()
    assert np.allclose(engine.gate_scores(images), reference, atol=1e-4)
    assert np.allclose(engine.gate_scores(images[2]), reference[2:3], atol=1e-4)


@pytest.mark.slow
def test_classes_have_the_names_that_the_bundle_gives_them_the_likeliest_first(tmp_path: Path) -> None:
    config = EngineConfig(image_size=tiny.SIZE, batch_size=4, classifier="tests.tiny:animals", fused=True)
    bundle = build_engine(config, tiny.checkpoint(tmp_path), tmp_path / "fused")
    images = natural_images(5, tiny.SIZE)
    with purifyctl.Engine(bundle.path) as engine:
        assert engine.labels.names[:2] == ("cats", "dogs")
        for purify in (True, False):  # by the graph for both, and by the classifier's alone
            found = engine.classify(images, purify=purify)
            assert np.array_equal(found.images, engine(images) if purify else images)
            for top, probabilities in zip(found.top(10), found.probabilities, strict=True):
                names, chances = zip(*top, strict=True)
                assert sorted(names) == sorted(engine.labels.names)
                assert list(chances) == sorted(probabilities.tolist(), reverse=True)
                assert all(probabilities[engine.labels.names.index(name)] == chance for name, chance in top)
            assert [len(top) for top in found.top(2)] == [2] * 5
        best = found.top(1)[0][0][0]
        assert best == engine.labels.names[int(found.probabilities[0].argmax())]


def test_threads_may_share_an_engine(tiny_bundle: Bundle) -> None:
    images = natural_images(4, tiny.SIZE)
    turned = [np.roll(images, i, axis=1) for i in range(12)]
    with purifyctl.Engine(tiny_bundle.path) as engine, ThreadPoolExecutor(4) as pool:
        found = list(pool.map(engine.classify, turned))
        for one, image in zip(found, turned, strict=True):
            assert np.array_equal(one.images, engine(image))


def test_a_closed_engine_says_so(tiny_bundle: Bundle) -> None:
    engine = purifyctl.Engine(str(tiny_bundle.path))
    engine.close()
    engine.close()
    for use in (engine, engine.classify):
        with pytest.raises(BackendError, match="was closed"):
            use(natural_images(1, tiny.SIZE))


def test_an_engine_from_elsewhere_runs_when_it_is_trusted(
    tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    monkeypatch.setenv("PURIFYCTL_STATE", str(tmp_path / "state"))
    monkeypatch.setattr(trust, "_in_this_process", set())
    with pytest.raises(BundleError, match="not built here"):
        purifyctl.Engine(tmp_path / "bundle")
    for trusting in (True, False):  # now, and later
        with purifyctl.Engine(tmp_path / "bundle", trust=trusting) as engine:
            assert len(engine(natural_images(1, tiny.SIZE))) == 1
    (tmp_path / "bundle" / "purifier.onnx").write_bytes(b"something else")
    with pytest.raises(BundleError, match="SHA-256 differs"):
        purifyctl.Engine(tmp_path / "bundle", trust=True)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 32, 64, 3), np.uint8), r"\[n, 64, 64, 3\]; these are \[2, 32, 64, 3\]"),
        (np.zeros((2, 3, 64, 64), np.uint8), r"these are \[2, 3, 64, 64\]"),
        (np.zeros((64, 64), np.uint8), r"these are \[64, 64\]"),
        (np.zeros((1, 1, 64, 64, 3), np.uint8), r"these are \[1, 1, 64, 64, 3\]"),
        (np.zeros((2, 64, 64, 3), np.float32), "takes uint8; these are float32"),
        ([np.zeros((64, 64, 3), np.uint8), np.zeros((64, 65, 3), np.uint8)], r"these are \[64, 65, 3\]"),
        (Image.new("RGB", (90, 60)), r"\[64, 64, 3\]; these are \[60, 90, 3\]"),
        (Image.new("RGBA", (64, 64)), "mode RGBA"),
        (torch.zeros(2, 64, 64, 3, dtype=torch.uint8), "type Tensor"),
        (["photo.jpg"], "type str"),
    ],
)
def test_an_engine_refuses_what_it_would_have_to_change_first(
    images: object, message: str, engine: purifyctl.Engine
) -> None:
    for use in (engine, engine.classify):
        with pytest.raises(InputError, match=message):
            use(images)  # type: ignore[arg-type, operator]


@pytest.mark.parametrize("batch_size", [0, 5])
def test_an_engine_refuses_batches_that_it_was_not_built_for(batch_size: int, tiny_bundle: Bundle) -> None:
    with pytest.raises(ConfigError, match=f"batch_size is {batch_size}; .* takes 1 to 4"):
        purifyctl.Engine(tiny_bundle.path, batch_size=batch_size)


@pytest.mark.slow
def test_an_engine_without_a_classifier_purifies_and_says_that_it_cannot_classify(tmp_path: Path) -> None:
    config = EngineConfig(backend="onnxruntime", image_size=tiny.SIZE, batch_size=4)
    bundle = build_engine(config, tiny.checkpoint(tmp_path), tmp_path / "bundle")
    images = natural_images(5, tiny.SIZE)
    with purifyctl.Engine(bundle.path) as engine:
        assert same(engine(images), purifier_graph(tiny.purifier())(torch.from_numpy(images)).numpy())
        with pytest.raises(ConfigError, match="has no classifier"):
            engine.classify(images)


@tiny.needs_gpu
def test_an_engine_on_a_gpu_takes_and_gives_arrays_in_host_memory(tmp_path: Path) -> None:
    config = EngineConfig(
        backend="torch-cuda", image_size=tiny.SIZE, batch_size=4, classifier="tests.tiny:classifier"
    )  # it runs on every GPU
    bundle = build_engine(config, tiny.checkpoint(tmp_path), tmp_path / "bundle")
    images = natural_images(11, tiny.SIZE)
    for batch_size in (None, 1):
        with purifyctl.Engine(bundle.path, batch_size=batch_size) as engine:
            assert same(engine(images), purifier_graph(tiny.purifier())(torch.from_numpy(images)).numpy())
            found = engine.classify(images)
        graph = classifier_graph(tiny.classifier())
        reference = graph(torch.from_numpy(found.images)).detach().numpy()
        assert np.allclose(found.probabilities, reference, atol=TOLERANCES["fp32"].probability)
