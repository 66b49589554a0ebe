import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from purifyctl.nn import PatchDiscriminator, RedrawPurifier, ResidualPurifier, UNetPurifier
from purifyctl.nn.perceptual import PerceptualLoss, layers_that_run, stages, vgg_perceptual


def parameters(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def multiply_adds(net: nn.Module, size: int = 256) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net.eval()(torch.rand(1, 3, size, size))
    return counter.get_total_flops() // 2


def test_the_unet_has_the_parameters_of_pix2pix() -> None:
    assert parameters(UNetPurifier()) == 54_414_531


def test_the_discriminator_has_the_parameters_of_pix2pix() -> None:
    assert parameters(PatchDiscriminator()) == 2_768_705


def test_each_judgement_of_the_discriminator_sees_70_by_70_pixels() -> None:
    net = PatchDiscriminator(width=4).eval()
    x_adv, x = torch.rand(2, 1, 3, 128, 128).unbind()
    x.requires_grad_(True)
    logits = net(x_adv, x)
    assert logits.shape == (1, 1, 14, 14)
    (gradient,) = torch.autograd.grad(logits[0, 0, 7, 7], x)
    touched = gradient.abs().sum(dim=(0, 1)) > 0
    rows, columns = touched.any(dim=1).nonzero(), touched.any(dim=0).nonzero()
    assert rows.max() - rows.min() + 1 == 70
    assert columns.max() - columns.min() + 1 == 70


def test_the_residual_purifier_is_at_least_eight_times_cheaper_than_the_unet() -> None:
    assert multiply_adds(UNetPurifier()) >= 8 * multiply_adds(ResidualPurifier())


def test_an_untrained_residual_purifier_returns_its_input() -> None:
    x = torch.rand(2, 3, 64, 96)
    torch.testing.assert_close(ResidualPurifier().eval()(x), x)


@pytest.mark.parametrize(
    "net",
    [UNetPurifier(width=4, depth=6), ResidualPurifier(width=8, depth=3), RedrawPurifier(width=8, depth=3, reduce=4)],
)
def test_purifiers_keep_shape_and_range_on_images_that_are_not_square(net: nn.Module) -> None:
    for p in net.parameters():
        nn.init.normal_(p, 0, 0.5)
    y = net.eval()(torch.rand(2, 3, 64, 128))
    assert y.shape == (2, 3, 64, 128)
    assert y.min() >= 0
    assert y.max() <= 1


def test_nothing_but_what_its_reader_says_gets_past_a_purifier_that_redraws() -> None:
    net = RedrawPurifier(width=8, depth=2, reduce=4, classes=5)
    nn.init.normal_(net.patterns.weight, 0, 0.1)
    x = torch.rand(2, 3, 32, 48)
    torch.testing.assert_close(net(x), net.draw(net.read(x), (32, 48)))
    noise = torch.randn(2, 3, 32, 48) * 0.05
    means = nn.functional.avg_pool2d(noise, 4).repeat_interleave(4, 2).repeat_interleave(4, 3)
    torch.testing.assert_close(net(x + noise - means), net(x))  # finer than it sees
    assert not torch.allclose(net(x + means), net(x))


def test_a_purifier_that_redraws_draws_something_else_for_every_class() -> None:
    net = RedrawPurifier(width=8, depth=2, reduce=4, classes=5)
    nn.init.normal_(net.patterns.weight, 0, 0.1)
    drawn = net.draw(20 * torch.eye(5), (32, 32)).flatten(1)
    assert torch.pdist(drawn).min() > 1


def test_a_purifier_that_redraws_has_the_size_that_it_says() -> None:
    net = RedrawPurifier()
    assert round(parameters(net) / 1e6, 1) == 1.9
    assert round(multiply_adds(net) / 1e9, 2) == 0.06


def test_the_unet_drops_out_in_three_blocks_in_training_only() -> None:
    net = UNetPurifier(width=4)
    assert [any(isinstance(m, nn.Dropout) for m in up) for up in net.up] == [True] * 3 + [False] * 5
    x = torch.rand(1, 3, 256, 256)
    net.eval()
    torch.testing.assert_close(net(x), net(x))
    net.train()
    assert not torch.equal(net(torch.cat([x, x])), net(torch.cat([x, x])))


def test_a_purified_image_does_not_depend_on_its_batch() -> None:
    net = UNetPurifier(width=4, depth=5).eval()
    x = torch.rand(3, 3, 32, 32)
    torch.testing.assert_close(net(x)[:1], net(x[:1]))


def test_the_perceptual_loss_is_zero_for_equal_images_and_reaches_the_purified_one() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3))
    loss = PerceptualLoss(backbone, stages(backbone))
    x = torch.rand(1, 3, 16, 16)
    assert loss(x, x) == 0
    x_pur = torch.rand(1, 3, 16, 16, requires_grad=True)
    value = loss(x, x_pur)
    value.backward()
    assert value > 0
    assert x_pur.grad is not None
    assert all(p.grad is None for p in backbone.parameters())


def test_the_perceptual_loss_leaves_no_hooks_on_a_network_that_others_use() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    PerceptualLoss(backbone, list(backbone))(torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8))
    assert not any(layer._forward_hooks for layer in backbone)


def test_each_layer_of_the_perceptual_loss_has_its_weight() -> None:
    backbone = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    x, x_pur = torch.rand(2, 1, 3, 16, 16).unbind()
    one, two = (PerceptualLoss(backbone, [backbone[i]], [1.0])(x, x_pur) for i in (0, 2))
    both = PerceptualLoss(backbone, [backbone[2], backbone[0]], [0.5, 2.0])(x, x_pur)
    torch.testing.assert_close(both, 0.5 * two + 2 * one)


@pytest.mark.slow
def test_vgg_takes_its_lower_layers_alone_under_any_names_and_refuses_other_weights() -> None:
    state = {}
    for name, (n_in, n_out) in {"features.0": (3, 64), "net.slice1.2": (64, 64), "5": (64, 128)}.items():
        state[f"{name}.weight"] = torch.rand(n_out, n_in, 3, 3)
        state[f"{name}.bias"] = torch.rand(n_out)
    loss = vgg_perceptual("vgg19", state)
    assert [type(layer).__name__ for layer in loss.backbone][-3:] == ["MaxPool2d", "Conv2d", "ReLU"]
    torch.testing.assert_close(loss.backbone[5].weight, state["5.weight"])
    x, x_pur = torch.rand(2, 1, 3, 32, 32).unbind()
    assert loss(x, x) == 0
    chosen = vgg_perceptual("vgg16", state, {"3": 2.0})
    torch.testing.assert_close(chosen(x, x_pur), 2 * PerceptualLoss(loss.backbone, [loss.backbone[3]])(x, x_pur))
    # safetensors files list features.10 before features.2
    widths = {"features.0": (3, 64), "features.10": (128, 256), "features.2": (64, 64)}
    widths |= {"features.5": (64, 128), "features.7": (128, 128)}
    shuffled = {f"{k}.weight": torch.rand(n_out, n_in, 3, 3) for k, (n_in, n_out) in widths.items()}
    shuffled |= {f"{k}.bias": torch.rand(n_out) for k, (_, n_out) in widths.items()}
    assert len(vgg_perceptual("vgg19", shuffled).backbone) == 12
    with pytest.raises(ValueError, match="vgg19"):
        vgg_perceptual("vgg19", {"conv1.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="no layer 12"):
        vgg_perceptual("vgg19", state, {"12": 1.0})


def test_only_layers_that_run_and_return_a_tensor_are_compared() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.unused, self.pair = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.LSTM(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.pair(self.conv(x).flatten(2).permute(2, 0, 1))[0]

    net = Net()
    assert layers_that_run(net, list(net.children()), torch.rand(1, 3, 8, 8)) == [net.conv]


def test_the_papers_networks_train_on_single_images() -> None:
    generator, discriminator = UNetPurifier(width=2).train(), PatchDiscriminator(width=2).train()
    x = torch.rand(1, 3, 256, 256)
    discriminator(x, generator(x)).mean().backward()
    assert all(p.grad is not None for p in generator.parameters())
