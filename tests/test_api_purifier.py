"""`purifyctl.Purifier`: a torch module."""

import copy
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchvision.transforms import v2

import purifyctl
from purifyctl.checkpoint import load_purifier
from purifyctl.config import NetworkConfig
from purifyctl.errors import (
    InputError,
    WeightsError,
)
from purifyctl.shipped import shipped_checkpoint
from tests import tiny

UNET = NetworkConfig(kind="unet", width=4, depth=5)  # dropout and batch norm
NETWORKS = {"residual": tiny.NETWORK, "unet": UNET}


def test_without_a_path_it_is_the_shipped_purifier_frozen() -> None:
    purifier, shipped = purifyctl.Purifier.from_checkpoint(), load_purifier(shipped_checkpoint())
    x = tiny.batch(2)
    assert torch.equal(purifier(x), shipped.net(x))
    assert purifier.net.state_dict().keys() == shipped.net.state_dict().keys()
    assert not any(parameter.requires_grad for parameter in purifier.parameters())
    assert not any(part.training for part in purifier.modules())


@pytest.mark.parametrize("name", ["purifier.safetensors", ""])
def test_it_loads_a_file_or_a_run_folder_given_as_text_or_path(name: str, tmp_path: Path) -> None:
    tiny.checkpoint(tmp_path)
    x = tiny.batch(2)
    for path in (tmp_path / name, str(tmp_path / name)):
        assert torch.equal(purifyctl.Purifier.from_checkpoint(path)(x), tiny.purifier()(x))
    with pytest.raises(WeightsError, match="There is no checkpoint"):
        purifyctl.Purifier.from_checkpoint(tmp_path / "elsewhere")


@pytest.mark.parametrize("kind", NETWORKS)
@given(n=st.integers(0, 2), rows=st.integers(1, 3), columns=st.integers(1, 3))
@settings(deadline=None, max_examples=10)
def test_at_multiples_it_is_exactly_the_network(kind: str, n: int, rows: int, columns: int) -> None:
    purifier = tiny.module(NETWORKS[kind])
    x = torch.rand(n, 3, rows * purifier.multiple, columns * purifier.multiple)
    assert torch.equal(purifier(x), purifier.net(x) if n else x)


@given(height=st.integers(1, 70), width=st.integers(1, 70), multiple=st.sampled_from([1, 4, 32]))
@settings(deadline=None)
def test_other_sizes_are_extended_by_their_mirror_image_and_cut_back(height: int, width: int, multiple: int) -> None:
    seen = []

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(x)
            return 1 - x

    x = torch.rand(2, 3, height, width)
    assert torch.equal(purifyctl.Purifier(Net(), multiple)(x), 1 - x)
    more = [(0, 0), (0, 0), *((8, 8 + -(n + 16) % multiple) for n in (height, width))]
    if height % multiple == width % multiple == 0:  # a square of an engine
        more = [(0, 0)] * 4
    assert np.array_equal(seen[0].numpy(), np.pad(x.numpy(), more, mode="reflect"))


@given(height=st.integers(1, 40), width=st.integers(1, 40))
@settings(deadline=None, max_examples=20)
def test_an_image_of_any_size_keeps_its_size_and_its_range(height: int, width: int) -> None:
    x = torch.rand(2, 3, height, width)
    purified = tiny.module()(x)
    assert purified.shape == x.shape
    assert 0 <= purified.min() <= purified.max() <= 1
    assert not torch.equal(purified, x)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("size", [(64, 64), (45, 61)])
def test_an_image_is_purified_the_same_whatever_comes_with_it(kind: str, size: tuple[int, int]) -> None:
    purifier, x = tiny.module(NETWORKS[kind]), torch.rand(3, 3, *size)
    for alone, together in zip(x.split(1), purifier(x), strict=True):
        assert torch.allclose(purifier(alone)[0], together, atol=1e-5)


def test_its_gradients_are_those_of_the_network() -> None:
    purifier, classifier = tiny.module(), tiny.classifier()
    gradients = []
    for net in (purifier, purifier.net):
        x = tiny.batch().requires_grad_()
        nn.Sequential(net, classifier)(x).square().sum().backward()
        gradients.append(x.grad)
    assert torch.equal(*gradients)
    assert gradients[0].abs().min(dim=0).values.any()


def test_gradients_flow_through_the_mirror_image_too() -> None:
    """Against finite differences, in double precision."""
    x = (torch.rand(1, 3, 5, 6, dtype=torch.float64) * 0.5 + 0.25).requires_grad_()
    purifier = tiny.module().double()
    nn.init.normal_(purifier.net.head[1].weight, 0, 0.001)  # small corrections: the clamp to [0, 1] has corners
    assert torch.autograd.gradcheck(purifier, (x,), fast_mode=True)


def test_a_frozen_one_stays_in_eval_mode_in_a_network_that_is_trained() -> None:
    purifier = tiny.module(UNET)
    defended = nn.Sequential(purifier, tiny.classifier()).train()
    assert defended[1].training
    assert not any(part.training for part in purifier.modules())
    before = copy.deepcopy(purifier.state_dict())
    x = tiny.batch(4)
    assert torch.equal(purifier(x), purifier(x))  # no dropout
    optimiser = torch.optim.SGD((p for p in defended.parameters() if p.requires_grad), lr=0.1)
    defended(x).square().sum().backward()
    optimiser.step()
    assert all(torch.equal(before[name], tensor) for name, tensor in purifier.state_dict().items())


def test_one_that_wants_gradients_can_be_trained() -> None:
    purifier = tiny.module(UNET).requires_grad_().train()
    assert all(part.training for part in purifier.modules())
    x = tiny.batch(4)
    assert not torch.equal(purifier(x), purifier(x))  # dropout
    purifier(x).sum().backward()
    assert all(parameter.grad is not None for parameter in purifier.parameters())


def test_its_state_goes_into_another_one() -> None:
    one, other = tiny.module(), tiny.module()
    nn.init.normal_(one.net.head[1].weight, 0, 0.02)
    x = tiny.batch()
    assert not torch.equal(one(x), other(x))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(x), other(x))
    assert torch.equal(pickle.loads(pickle.dumps(one))(x), one(x))


def test_it_moves_to_another_type() -> None:
    x = tiny.batch()
    purified = tiny.module().to(torch.bfloat16)(x.to(torch.bfloat16))
    assert purified.dtype == torch.bfloat16
    assert torch.allclose(purified.float(), tiny.module()(x), atol=0.02)


@tiny.needs_gpu
def test_it_moves_to_a_gpu() -> None:
    x = tiny.batch(size=45)
    purified = tiny.module().to("cuda")(x.cuda())
    assert purified.is_cuda
    assert torch.allclose(purified.cpu(), tiny.module()(x), atol=0.01)  # convolutions there use TF32


def test_it_can_be_exported_by_torch() -> None:
    purifier, x = tiny.module(), tiny.batch(2, 45)
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
        tiny.module()(x)
    assert isinstance(caught.value, ValueError)
    assert isinstance(pickle.loads(pickle.dumps(caught.value)), InputError)


def test_a_little_overshoot_such_as_that_of_bicubic_resizing_is_accepted() -> None:
    x = v2.functional.resize((torch.rand(2, 3, 9, 9) > 0.5).float(), [64, 64], v2.InterpolationMode.BICUBIC)
    assert x.min() < 0
    assert x.max() > 1
    purifier = tiny.module()
    assert torch.equal(purifier(x), purifier.net(x))
