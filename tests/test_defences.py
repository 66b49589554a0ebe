from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from purifyctl.attacks import behind
from purifyctl.evaluation.defences import PURIFIER, bpda_model, classical_defences, eight_bits
from purifyctl.photographs import to_pixels
from tests.evaluating import SIZE, photographs_of, subject

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("name", [d.name for d in classical_defences()] + [PURIFIER])
def test_every_defence_returns_whole_grey_levels_of_the_same_shape(name: str) -> None:
    it = subject()
    x = torch.rand(2, 3, SIZE, SIZE)
    out = it.defences[name].apply(x)
    assert out.shape == x.shape
    torch.testing.assert_close(out * 255, torch.round(out * 255), atol=1e-4, rtol=0)


def test_the_classical_defences_do_what_they_are_called() -> None:
    jpeg, bits, median = (defence.apply for defence in classical_defences()[1:])
    spot = torch.zeros(1, 3, SIZE, SIZE)
    spot[..., 5, 5] = 1
    assert median(spot).max() == 0
    assert len(bits(torch.linspace(0, 1, 3 * SIZE * SIZE).view(1, 3, SIZE, SIZE)).unique()) == 32
    noise = eight_bits(torch.rand(1, 3, SIZE, SIZE))
    assert 0.01 < (jpeg(noise) - noise).abs().mean() < 0.5


def test_a_png_file_is_what_rounding_to_grey_levels_stands_for(tmp_path: Path) -> None:
    x = torch.rand(1, 3, SIZE, SIZE)
    Image.fromarray(to_pixels(x)[0]).save(tmp_path / "x.png")
    back = torch.from_numpy(np.asarray(Image.open(tmp_path / "x.png")).copy()).permute(2, 0, 1)[None] / 255
    torch.testing.assert_close(back, eight_bits(x))


def test_adaptive_attacks_differentiate_through_the_purifier() -> None:
    it = subject()
    net, classifier = it.defences[PURIFIER].net, it.classifier
    assert net is not None
    x, y = photographs_of(it).x, photographs_of(it).y

    def gradient(model: Any) -> torch.Tensor:
        image = x.clone().requires_grad_(True)
        loss = torch.nn.functional.cross_entropy(model(image), y, reduction="sum")
        return torch.autograd.grad(loss, image)[0]

    exact, identity = gradient(behind(net, classifier)), gradient(bpda_model(net, classifier))
    unrounded = gradient(lambda image: classifier(net(image)))
    assert exact.abs().max() > 0
    alike = torch.nn.functional.cosine_similarity
    assert alike(exact.flatten(1), unrounded.flatten(1)).min() > 0.95  # rounding is passed straight through
    assert alike(exact.flatten(1), identity.flatten(1)).max() < 0.95
    seen = it.defences[PURIFIER].apply(x)
    for model in (behind(net, classifier), bpda_model(net, classifier)):
        torch.testing.assert_close(model(x), classifier(seen), atol=1e-5, rtol=1e-5)
