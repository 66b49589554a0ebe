"""`purifyctl.api.art.ArtPurifier`: a defence of ART's."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from purifyctl.errors import (
    ConfigError,
    InputError,
)
from tests import tiny


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
    x, y = tiny.batch(4), torch.tensor([0, 1, 2, 3])
    x.requires_grad_()
    logits = nn.Sequential(tiny.module(), tiny.classifier())(x)
    nn.functional.cross_entropy(logits, y).backward()

    def as_art_has_it(values: Tensor) -> NDArray[np.float32]:
        return (values if channels_first else values.permute(0, 2, 3, 1)).contiguous().detach().numpy()

    defence = art_purifier(tiny.module(), clip_values=(0, high), channels_first=channels_first, device_type="cpu")
    classifier = art_classifier(defence, channels_first=channels_first, high=high)
    given, one_hot = as_art_has_it(x * high), np.eye(10, dtype=np.float32)[y]
    reference = as_art_has_it(x.grad / high)
    near = np.abs(reference).max() * 1e-4
    assert np.allclose(classifier.predict(given), logits.detach(), atol=1e-5)
    assert np.allclose(classifier.loss_gradient(given, one_hot), reference, atol=near)
    through = art_classifier(channels_first=channels_first, high=high).loss_gradient(defence(given)[0], one_hot)
    assert np.allclose(defence.estimate_gradient(given, through), reference, atol=near)  # how ART chains other defences


def test_arts_pgd_finds_through_the_defence_what_it_does_not_find_without_knowing_it(art_purifier: type) -> None:
    from art.attacks.evasion import ProjectedGradientDescent

    undefended, defended = art_classifier(), art_classifier(art_purifier(device_type="cpu"))
    x, eps = tiny.batch(12).numpy(), 8 / 255
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


def test_the_defence_purifies_when_it_is_asked_to(art_purifier: type) -> None:
    x = tiny.batch(4).numpy()
    purified = art_purifier(tiny.module(), device_type="cpu")(x)[0]
    assert np.array_equal(purified, tiny.module()(tiny.batch(4)).numpy())
    plain = art_classifier()
    for apply in (True, False):
        defence = art_purifier(tiny.module(), apply_predict=apply, apply_fit=not apply, device_type="cpu")
        classifier = art_classifier(defence)
        assert np.allclose(classifier.predict(x), plain.predict(purified if apply else x), atol=1e-6)
        fitted, _ = classifier._apply_preprocessing(x, None, fit=True)
        assert np.array_equal(fitted, x if apply else purified)
    default = art_purifier(tiny.module())
    assert (default.apply_fit, default.apply_predict, default.is_fitted) == (False, True, True)


@pytest.mark.parametrize("clip_values", [(0.0, 1.0), (0, 255), (-1.0, 1.0)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_the_defence_gives_lies_within_the_clip_values(
    clip_values: tuple[float, float], dtype: type, art_purifier: type
) -> None:
    low, high = clip_values
    x = (np.random.default_rng(0).random((3, 3, 45, 37)) * (high - low) + low).astype(dtype)
    y = np.arange(3)
    purified, labels = art_purifier(tiny.module(), clip_values=clip_values)(x, y)
    assert (purified.shape, purified.dtype) == (x.shape, dtype)
    assert np.array_equal(labels, y)
    assert low - 1e-4 <= purified.min() < purified.max() <= high + 1e-4
    reference = tiny.module()(torch.from_numpy((x - low) / (high - low)).float()).numpy() * (high - low) + low
    assert np.allclose(purified, reference, atol=1e-4 * (high - low))


@pytest.mark.parametrize("clip_values", [(1, 0), (0, 0), (0,), 1, None, ("a", "b")])
def test_clip_values_that_are_no_range_are_refused(clip_values: object, art_purifier: type) -> None:
    with pytest.raises(ConfigError, match="clip_values are"):
        art_purifier(tiny.module(), clip_values=clip_values)
    with pytest.raises(ConfigError, match="clip_values are"):
        art_purifier(tiny.module()).set_params(clip_values=clip_values)


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
        art_purifier(tiny.module(), channels_first=channels_first)(np.full(shape, fill, np.float32))
