"""What Python programs use, with the libraries that they use it with."""

import copy
import importlib
import pickle
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision import datasets, tv_tensors
from torchvision.transforms import v2

import purifyctl
from purifyctl.checkpoint import load_purifier, shipped_checkpoint
from purifyctl.config import EngineConfig, NetworkConfig
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
    MissingDependencyError,
    WeightsError,
)
from purifyctl.gate import load_gate
from purifyctl.images import Decoder
from purifyctl.images.synthetic import natural_images
from purifyctl.machine import gpu_capability
from purifyctl.photographs import to_pixels, to_tensor
from purifyctl.run import run
from tests import tiny

ROOT = Path(__file__).parents[1]
UNET = NetworkConfig(kind="unet", width=4, depth=5)  # dropout and batch norm
NETWORKS = {"residual": tiny.NETWORK, "unet": UNET}


def module(network: NetworkConfig = tiny.NETWORK) -> purifyctl.Purifier:
    return purifyctl.Purifier(tiny.purifier(network).requires_grad_(False), network.size_multiple).eval()


def batch(n: int = 3, size: int = tiny.SIZE) -> Tensor:
    return to_tensor(natural_images(n, size)).contiguous()


# the package


def test_importing_the_package_imports_nothing_heavy() -> None:
    code = "import sys, purifyctl; dir(purifyctl); print({'torch', 'torchvision', 'numpy', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_the_package_lists_what_it_has_and_knows_nothing_else() -> None:
    assert {"Purifier", "Engine", "PurifyTransform"} <= set(dir(purifyctl))
    with pytest.raises(AttributeError, match="no attribute 'Purify'"):
        _ = purifyctl.Purify  # type: ignore[attr-defined]


def test_without_art_its_module_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("art", "art.defences.preprocessor.preprocessor"):
        monkeypatch.setitem(sys.modules, name, None)  # what Python then raises is what it does for a missing package
    monkeypatch.delitem(sys.modules, "purifyctl.api.art", raising=False)
    with pytest.raises(MissingDependencyError, match="adversarial-robustness-toolbox") as caught:
        importlib.import_module("purifyctl.api.art")
    assert "purifyctl[attacks]" in caught.value.hint


# the torch module


def test_without_a_path_it_is_the_shipped_purifier_frozen() -> None:
    purifier, shipped = purifyctl.Purifier.from_checkpoint(), load_purifier(shipped_checkpoint())
    x = batch(2)
    assert torch.equal(purifier(x), shipped.net(x))
    assert purifier.net.state_dict().keys() == shipped.net.state_dict().keys()
    assert not any(parameter.requires_grad for parameter in purifier.parameters())
    assert not any(part.training for part in purifier.modules())


@pytest.mark.parametrize("name", ["purifier.safetensors", ""])
def test_it_loads_a_file_or_a_run_folder_given_as_text_or_path(name: str, tmp_path: Path) -> None:
    tiny.checkpoint(tmp_path)
    x = batch(2)
    for path in (tmp_path / name, str(tmp_path / name)):
        assert torch.equal(purifyctl.Purifier.from_checkpoint(path)(x), tiny.purifier()(x))
    with pytest.raises(WeightsError, match="There is no checkpoint"):
        purifyctl.Purifier.from_checkpoint(tmp_path / "elsewhere")


@pytest.mark.parametrize("kind", NETWORKS)
@given(n=st.integers(0, 2), rows=st.integers(1, 3), columns=st.integers(1, 3))
@settings(deadline=None, max_examples=10)
def test_at_multiples_it_is_exactly_the_network(kind: str, n: int, rows: int, columns: int) -> None:
    purifier = module(NETWORKS[kind])
    x = torch.rand(n, 3, rows * purifier.multiple, columns * purifier.multiple)
    assert torch.equal(purifier(x), purifier.net(x) if n else x)


@given(height=st.integers(1, 70), width=st.integers(1, 70), multiple=st.sampled_from([1, 4, 32]))
@settings(deadline=None)
def test_other_sizes_are_continued_by_their_mirror_image_and_cut_off_again(
    height: int, width: int, multiple: int
) -> None:
    seen = []

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return 1 - x

    x = torch.rand(2, 3, height, width)
    assert torch.equal(purifyctl.Purifier(Net(), multiple)(x), 1 - x)
    more = [(0, 0), (0, 0), (0, -height % multiple), (0, -width % multiple)]
    assert np.array_equal(seen[0].numpy(), np.pad(x.numpy(), more, mode="reflect"))


@given(height=st.integers(1, 40), width=st.integers(1, 40))
@settings(deadline=None, max_examples=20)
def test_any_size_comes_back_as_it_is_within_the_range(height: int, width: int) -> None:
    x = torch.rand(2, 3, height, width)
    purified = module()(x)
    assert purified.shape == x.shape
    assert 0 <= purified.min() <= purified.max() <= 1
    assert not torch.equal(purified, x)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("size", [(64, 64), (45, 61)])
def test_an_image_is_purified_the_same_whatever_comes_with_it(kind: str, size: tuple[int, int]) -> None:
    purifier, x = module(NETWORKS[kind]), torch.rand(3, 3, *size)
    for alone, together in zip(x.split(1), purifier(x), strict=True):
        assert torch.allclose(purifier(alone)[0], together, atol=1e-5)


def test_its_gradients_are_those_of_the_network() -> None:
    purifier, classifier = module(), tiny.classifier()
    gradients = []
    for net in (purifier, purifier.net):
        x = batch().requires_grad_()
        nn.Sequential(net, classifier)(x).square().sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)
    assert gradients[0].abs().min(dim=0).values.any()


def test_gradients_flow_through_the_continuation_too() -> None:
    """Against finite differences, in double precision."""
    x = (torch.rand(1, 3, 5, 6, dtype=torch.float64) * 0.5 + 0.25).requires_grad_()
    purifier = module().double()
    nn.init.normal_(purifier.net.head[1].weight, 0, 0.001)  # small corrections: the clamp to [0, 1] has corners
    assert torch.autograd.gradcheck(purifier, (x,), fast_mode=True)


def test_a_frozen_one_stays_in_eval_mode_in_a_network_that_is_trained() -> None:
    purifier = module(UNET)
    defended = nn.Sequential(purifier, tiny.classifier()).train()
    assert defended[1].training
    assert not any(part.training for part in purifier.modules())
    before = copy.deepcopy(purifier.state_dict())
    x = batch(4)
    assert torch.equal(purifier(x), purifier(x))  # no dropout
    optimiser = torch.optim.SGD((p for p in defended.parameters() if p.requires_grad), lr=0.1)
    defended(x).square().sum().backward()
    optimiser.step()
    assert all(torch.equal(before[name], tensor) for name, tensor in purifier.state_dict().items())


def test_one_that_wants_gradients_can_be_trained() -> None:
    purifier = module(UNET).requires_grad_().train()
    assert all(part.training for part in purifier.modules())
    x = batch(4)
    assert not torch.equal(purifier(x), purifier(x))  # dropout
    purifier(x).sum().backward()
    assert all(parameter.grad is not None for parameter in purifier.parameters())


def test_its_state_goes_into_another_one() -> None:
    one, other = module(), module()
    nn.init.normal_(one.net.head[1].weight, 0, 0.02)
    x = batch()
    assert not torch.equal(one(x), other(x))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(x), other(x))
    assert torch.equal(pickle.loads(pickle.dumps(one))(x), one(x))


def test_it_moves_to_another_type() -> None:
    x = batch()
    purified = module().to(torch.bfloat16)(x.to(torch.bfloat16))
    assert purified.dtype == torch.bfloat16
    assert torch.allclose(purified.float(), module()(x), atol=0.02)


@tiny.needs_gpu
def test_it_moves_to_a_gpu() -> None:
    x = batch(size=45)
    purified = module().to("cuda")(x.cuda())
    assert purified.is_cuda
    assert torch.allclose(purified.cpu(), module()(x), atol=0.01)  # convolutions there use TF32


def test_it_can_be_exported_by_torch() -> None:
    purifier, x = module(), batch(2, 45)
    exported = torch.export.export(purifier, (x,)).module()
    assert torch.allclose(exported(x), purifier(x), atol=1e-6)


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(3, 8, 8), r"RGB images \[N, 3, height, width\]; these are \[3, 8, 8\]"),
        (torch.zeros(2, 8, 8, 3), r"these are \[2, 8, 8, 3\]"),
        (torch.zeros(2, 1, 8, 8), r"these are \[2, 1, 8, 8\]"),
        (torch.zeros(2, 3, 0, 8), r"these are \[2, 3, 0, 8\]"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "floats in .0, 1.; these are uint8"),
        (torch.full((2, 3, 8, 8), 255.0), "values in .0, 1.; these go from 255 to 255"),
        (torch.full((2, 3, 8, 8), -2.1), "these go from -2.1 to -2.1"),
        (torch.full((2, 3, 8, 8), torch.nan), "these go from nan to nan"),
    ],
)
def test_images_that_it_does_not_take_are_refused(x: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        module()(x)
    assert isinstance(caught.value, ValueError)
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), InputError)


def test_a_little_overshoot_as_of_bicubic_resizing_is_taken_as_it_is() -> None:
    x = v2.functional.resize((torch.rand(2, 3, 9, 9) > 0.5).float(), [64, 64], v2.InterpolationMode.BICUBIC)
    assert x.min() < 0
    assert x.max() > 1
    purifier = module()
    assert torch.equal(purifier(x), purifier.net(x))


# the engine


def same(made: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> bool:
    """Within what FP32 engines may differ from torch."""
    change = np.abs(made.astype(int) - wanted)
    return made.shape == wanted.shape and change.max() <= 1 and change.mean() <= TOLERANCES["fp32"].mean_grey


@pytest.fixture(scope="module")
def engine(tiny_bundle: Bundle) -> purifyctl.Engine:
    with purifyctl.Engine(tiny_bundle.path) as opened:
        yield opened


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
    for purify, wanted in ((True, engine(images)), (False, images)):
        found = engine.classify(images, purify=purify)
        assert np.array_equal(found.images, wanted)
        assert np.allclose(found.probabilities, graph(torch.from_numpy(wanted)).detach().numpy(), atol=1e-4)


def test_an_engine_tells_how_much_each_image_looks_attacked(engine: purifyctl.Engine, tiny_bundle: Bundle) -> None:
    images = natural_images(6, tiny.SIZE)
    gate = load_gate(tiny_bundle.path.parent / "gate.safetensors")
    wanted = torch.sigmoid(gate.net(to_tensor(images))).numpy()
    assert np.allclose(engine.gate_scores(images), wanted, atol=1e-4)
    assert np.allclose(engine.gate_scores(images[2]), wanted[2:3], atol=1e-4)


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
    pytest.importorskip("tensorrt_rtx")
    config = EngineConfig(
        backend="tensorrt-rtx",
        image_size=tiny.SIZE,
        batch_size=4,
        targets=(gpu_capability(),),
        classifier="tests.tiny:classifier",
    )
    bundle = build_engine(config, tiny.checkpoint(tmp_path), tmp_path / "bundle")
    images = natural_images(11, tiny.SIZE)
    for batch_size in (None, 1):
        with purifyctl.Engine(bundle.path, batch_size=batch_size) as engine:
            assert same(engine(images), purifier_graph(tiny.purifier())(torch.from_numpy(images)).numpy())
            found = engine.classify(images)
        graph = classifier_graph(tiny.classifier())
        wanted = graph(torch.from_numpy(found.images)).detach().numpy()
        assert np.allclose(found.probabilities, wanted, atol=TOLERANCES["fp32"].probability)


# the transform


def image(dtype: torch.dtype, *several: int) -> Tensor:
    pixels = torch.rand(*several, 3, 45, 37)
    return (pixels * 255).round().to(dtype) if dtype == torch.uint8 else pixels.to(dtype)


@pytest.fixture(scope="module")
def transform() -> purifyctl.PurifyTransform:
    return purifyctl.PurifyTransform(module())


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("several", [(), (2,), (0,), (2, 2)])
@pytest.mark.parametrize("kind", [Tensor, tv_tensors.Image, tv_tensors.Video])
def test_an_image_comes_back_as_its_own_type(
    kind: type, several: tuple[int, ...], dtype: torch.dtype, transform: purifyctl.PurifyTransform
) -> None:
    if kind is tv_tensors.Video and not several:
        several = (1,)  # a video has frames
    given = image(dtype, *several)
    made = transform(given if kind is Tensor else kind(given))
    assert type(made) is kind
    assert (made.dtype, made.shape) == (dtype, given.shape)
    flat = given.reshape(-1, 3, 45, 37)
    unit = flat.float() / (255 if dtype == torch.uint8 else 1)
    wanted = module()(unit) * (255 if dtype == torch.uint8 else 1)
    near = 0.501 if dtype == torch.uint8 else 0.01 if dtype == torch.bfloat16 else 1e-5
    assert torch.allclose(made.as_subclass(Tensor).reshape(flat.shape).float(), wanted, atol=near)


def test_a_pil_image_comes_back_as_one(transform: purifyctl.PurifyTransform) -> None:
    photo = tiny.photograph()
    made = transform(photo)
    assert isinstance(made, Image.Image)
    assert (made.size, made.mode) == (photo.size, "RGB")
    tensor = v2.functional.pil_to_tensor(photo)
    assert torch.equal(v2.functional.pil_to_tensor(made), transform(tensor))
    assert not torch.equal(tensor, transform(tensor))


def test_all_else_in_a_sample_is_left_alone(transform: purifyctl.PurifyTransform) -> None:
    beside = {
        "boxes": tv_tensors.BoundingBoxes(torch.tensor([[1, 2, 8, 9]]), format="XYXY", canvas_size=(45, 37)),
        "mask": tv_tensors.Mask(torch.ones(1, 45, 37, dtype=torch.uint8)),
        "label": torch.tensor(3),
        "embedding": torch.rand(3, 45, 37),  # a plain tensor beside an image is no image
        "name": "a.jpg",
        "nothing": None,
    }
    for picture in (tv_tensors.Image(image(torch.uint8)), tiny.photograph()):
        made_picture, made = transform(picture, beside)
        assert type(made_picture) is type(picture)
        assert made_picture is not picture
        assert all(made[name] is thing for name, thing in beside.items())
    first, second = transform((image(torch.uint8), beside["embedding"]))  # without one, the first plain tensor is
    assert first.dtype == torch.uint8
    assert second is beside["embedding"]


def test_it_goes_between_torchvisions_transforms() -> None:
    chain = v2.Compose(
        [
            v2.RGB(),
            v2.Resize(50),
            v2.CenterCrop(45),
            purifyctl.PurifyTransform(module()),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.5,) * 3, (0.5,) * 3),
        ]
    )
    made = chain(tiny.photograph().convert("L"))
    assert made.shape == (3, 45, 45)
    assert -1 <= made.min() < made.max() <= 1


def test_gradients_flow_through_the_transform(transform: purifyctl.PurifyTransform) -> None:
    x = image(torch.float32).requires_grad_()
    transform(x).sum().backward()
    assert x.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Image.new("L", (9, 9)), "mode L"),
        (torch.zeros(1, 9, 9), r"these are \[1, 1, 9, 9\]"),
        (torch.zeros(9, 9), r"these are"),
        (torch.zeros(3, 9, 9, dtype=torch.int64), "these are int64"),
        (torch.full((3, 9, 9), 200.0), "these go from 200 to 200"),
    ],
)
def test_images_that_the_transform_does_not_take_are_refused(
    given: object, message: str, transform: purifyctl.PurifyTransform
) -> None:
    with pytest.raises(InputError, match=message):
        transform(given)


@pytest.mark.slow
def test_it_works_in_the_processes_of_a_data_loader(photos: Path) -> None:
    chain = v2.Compose([v2.Resize((45, 45)), purifyctl.PurifyTransform(module()), v2.PILToTensor()])
    loader = torch.utils.data.DataLoader(
        datasets.ImageFolder(photos, chain), batch_size=5, num_workers=1, multiprocessing_context="spawn"
    )
    made = torch.cat([images for images, _ in loader])
    here = torch.stack([images for images, _ in datasets.ImageFolder(photos, chain)])
    assert (made.int() - here.int()).abs().max() <= 1


# the defence for ART


def art_classifier(*defences: object, channels_first: bool = True, high: float = 1.0) -> object:
    from art.estimators.classification import PyTorchClassifier

    class Net(nn.Module):
        """What the images come as -> logits of the tiny classifier."""

        def __init__(self) -> None:
            super().__init__()
            self.net = tiny.classifier()

        def forward(self, x: Tensor) -> Tensor:
            return self.net((x if channels_first else x.permute(0, 3, 1, 2)) / high)

    return PyTorchClassifier(
        Net(),
        nn.CrossEntropyLoss(),
        input_shape=(3, tiny.SIZE, tiny.SIZE) if channels_first else (tiny.SIZE, tiny.SIZE, 3),
        nb_classes=10,
        channels_first=channels_first,
        clip_values=(0, high),
        preprocessing_defences=list(defences) or None,
        device_type="cpu",
    )


@pytest.fixture(scope="module")
def art_purifier() -> type:
    from purifyctl.api.art import ArtPurifier

    return ArtPurifier


@pytest.mark.parametrize("channels_first", [True, False])
@pytest.mark.parametrize("high", [1.0, 255.0])
def test_arts_gradient_through_the_defence_is_torchs_through_both_networks(
    high: float, channels_first: bool, art_purifier: type
) -> None:
    x, y = batch(4), torch.tensor([0, 1, 2, 3])
    x.requires_grad_()
    logits = nn.Sequential(module(), tiny.classifier())(x)
    nn.functional.cross_entropy(logits, y).backward()

    def as_art_has_it(values: Tensor) -> NDArray[np.float32]:
        return (values if channels_first else values.permute(0, 2, 3, 1)).contiguous().detach().numpy()

    defence = art_purifier(module(), clip_values=(0, high), channels_first=channels_first, device_type="cpu")
    classifier = art_classifier(defence, channels_first=channels_first, high=high)
    given, one_hot = as_art_has_it(x * high), np.eye(10, dtype=np.float32)[y]
    wanted = as_art_has_it(x.grad / high)
    near = np.abs(wanted).max() * 1e-4
    assert np.allclose(classifier.predict(given), logits.detach(), atol=1e-5)
    assert np.allclose(classifier.loss_gradient(given, one_hot), wanted, atol=near)
    through = art_classifier(channels_first=channels_first, high=high).loss_gradient(defence(given)[0], one_hot)
    assert np.allclose(defence.estimate_gradient(given, through), wanted, atol=near)  # how ART chains other defences


def test_arts_pgd_finds_through_the_defence_what_it_does_not_find_without_knowing_it(art_purifier: type) -> None:
    from art.attacks.evasion import ProjectedGradientDescent

    undefended, defended = art_classifier(), art_classifier(art_purifier(device_type="cpu"))
    x, eps = batch(12).numpy(), 8 / 255
    y = defended.predict(x).argmax(1)
    right, loss = {}, {}
    for name, attacked in (("gray-box", undefended), ("adaptive", defended)):
        attack = ProjectedGradientDescent(attacked, eps=eps, eps_step=eps / 4, max_iter=10, verbose=False)
        x_adv = attack.generate(x, y=y)
        assert np.abs(x_adv - x).max() <= eps + 1e-6
        logits = torch.from_numpy(defended.predict(x_adv))
        right[name] = int((logits.argmax(1).numpy() == y).sum())
        loss[name] = nn.functional.cross_entropy(logits, torch.from_numpy(y), reduction="none")
    assert right["adaptive"] <= right["gray-box"] - 6
    assert (loss["adaptive"] > loss["gray-box"]).all()


def test_the_defence_purifies_when_it_is_told_to(art_purifier: type) -> None:
    x = batch(4).numpy()
    purified = art_purifier(module(), device_type="cpu")(x)[0]
    assert np.array_equal(purified, module()(batch(4)).numpy())
    plain = art_classifier()
    for apply in (True, False):
        defence = art_purifier(module(), apply_predict=apply, apply_fit=not apply, device_type="cpu")
        classifier = art_classifier(defence)
        assert np.allclose(classifier.predict(x), plain.predict(purified if apply else x), atol=1e-6)
        fitted, _ = classifier._apply_preprocessing(x, None, fit=True)
        assert np.array_equal(fitted, x if apply else purified)
    default = art_purifier(module())
    assert (default.apply_fit, default.apply_predict, default.is_fitted) == (False, True, True)


@pytest.mark.parametrize("clip_values", [(0.0, 1.0), (0, 255), (-1.0, 1.0)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_the_defence_gives_lies_within_the_clip_values(
    clip_values: tuple[float, float], dtype: type, art_purifier: type
) -> None:
    low, high = clip_values
    x = (np.random.default_rng(0).random((3, 3, 45, 37)) * (high - low) + low).astype(dtype)
    y = np.arange(3)
    purified, labels = art_purifier(module(), clip_values=clip_values)(x, y)
    assert (purified.shape, purified.dtype) == (x.shape, dtype)
    assert np.array_equal(labels, y)
    assert low - 1e-4 <= purified.min() < purified.max() <= high + 1e-4
    wanted = module()(torch.from_numpy((x - low) / (high - low)).float()).numpy() * (high - low) + low
    assert np.allclose(purified, wanted, atol=1e-4 * (high - low))


@pytest.mark.parametrize("clip_values", [(1, 0), (0, 0), (0,), 1, None, ("a", "b")])
def test_clip_values_that_are_no_range_are_refused(clip_values: object, art_purifier: type) -> None:
    with pytest.raises(ConfigError, match="clip_values are"):
        art_purifier(module(), clip_values=clip_values)
    with pytest.raises(ConfigError, match="clip_values are"):
        art_purifier(module()).set_params(clip_values=clip_values)


@pytest.mark.parametrize(
    ("shape", "fill", "channels_first", "message"),
    [
        ((2, 8, 8, 3), 0, True, r"\[N, 3, height, width\]; these are \[2, 8, 8, 3\]"),
        ((2, 3, 8, 8), 0, False, r"\[N, height, width, 3\]; these are \[2, 3, 8, 8\]"),
        ((8, 8, 3), 0, False, r"\[N, height, width, 3\]; these are \[8, 8, 3\]"),
        ((2, 3, 8, 8), 255, True, "these go from 255 to 255"),
    ],
)
def test_images_that_the_defence_does_not_take_are_refused(
    shape: tuple[int, ...], fill: float, channels_first: bool, message: str, art_purifier: type
) -> None:
    with pytest.raises(InputError, match=message):
        art_purifier(module(), channels_first=channels_first)(np.full(shape, fill, np.float32))


# the page


@pytest.mark.slow
def test_the_code_in_the_docs_runs_as_it_is_written(
    photos: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/python.md").read_text(), re.M | re.S)
    assert len(blocks) >= 5
    shutil.copytree(tiny_bundle.path, tmp_path / "engines" / "cpu")
    monkeypatch.chdir(tmp_path)  # with photos/ and engines/cpu
    torch.manual_seed(0)
    names: dict[str, object] = {}
    for number, block in enumerate(blocks):
        exec(compile(block, f"docs/python.md, block {number + 1}", "exec"), names)
    assert capsys.readouterr().out
