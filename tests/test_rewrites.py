"""Every rewrite computes the same function. The tests use FP64, so that rounding hides nothing."""

import copy
from pathlib import Path
from typing import get_args

import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from purifyctl.config import BACKENDS, EnginePrecision, NetworkConfig
from purifyctl.engine.backends import implementation, openvino, tensorrt_rtx
from purifyctl.engine.graphs import export_onnx, purifier_graph
from purifyctl.engine.rewrites import PASSES, Pass, deconvs_as_conv2, deconvs_as_conv3, fold_norms
from tests import tiny

UNET = NetworkConfig(kind="unet", width=4, depth=5)


def unet() -> nn.Module:
    """A U-Net whose norms have statistics, as after a training."""
    net = tiny.purifier(UNET)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            _trained(module)
    return net


def _trained(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    nn.init.normal_(norm.running_mean)
    nn.init.uniform_(norm.running_var, 0.1, 3)
    if norm.affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm


def _assert_same(rewritten: nn.Module, net: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(rewritten(x), net(x), rtol=1e-10, atol=1e-10)


def _kinds(net: nn.Module) -> set[type[nn.Module]]:
    return {type(module) for module in net.modules()}


@pytest.mark.parametrize("rewrite", [deconvs_as_conv2, deconvs_as_conv3], ids=lambda rewrite: rewrite.__name__)
@given(
    n_in=st.integers(1, 5),
    n_out=st.integers(1, 5),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    bias=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=50, deadline=None)
def test_a_transposed_convolution_is_exactly_its_rewritten_form(
    rewrite: Pass, n_in: int, n_out: int, height: int, width: int, bias: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    deconv = nn.ConvTranspose2d(n_in, n_out, 4, stride=2, padding=1, bias=bias).double().eval()
    rewritten = rewrite(deconv)
    assert nn.ConvTranspose2d not in _kinds(rewritten)
    _assert_same(rewritten, deconv, torch.randn(2, n_in, height, width, dtype=torch.float64))


@pytest.mark.parametrize(
    "other",
    [{"kernel_size": 3}, {"stride": 1}, {"padding": 0}, {"output_padding": 1}, {"dilation": 2}, {"groups": 2}],
    ids=str,
)
def test_other_transposed_convolutions_are_refused_not_rewritten_wrongly(other: dict[str, int]) -> None:
    deconv = nn.ConvTranspose2d(2, 2, **{"kernel_size": 4, "stride": 2, "padding": 1, **other})
    with pytest.raises(ValueError, match="4x4 stride 2"):
        deconvs_as_conv3(nn.Sequential(deconv))


@given(
    transposed=st.booleans(),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.sampled_from(["zeros", "reflect"]),
    groups=st.sampled_from([1, 2]),
    bias=st.booleans(),
    affine=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=100, deadline=None)
def test_a_norm_folds_into_the_convolution_before_it(
    transposed: bool, kernel: int, stride: int, padding: str, groups: int, bias: bool, affine: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    kind = nn.ConvTranspose2d if transposed else nn.Conv2d
    mode = "zeros" if transposed else padding
    conv = kind(4, 6, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=bias, padding_mode=mode)
    net = nn.Sequential(conv, _trained(nn.BatchNorm2d(6, affine=affine)), nn.ReLU()).double().eval()
    folded = fold_norms(net)
    assert (nn.BatchNorm2d in _kinds(folded)) == (transposed and groups > 1)  # those stay
    _assert_same(folded, net, torch.randn(2, 4, 7, 5, dtype=torch.float64))


class Backwards(nn.Sequential):
    """Runs its layers from the last to the first."""

    def forward(self, x: Tensor) -> Tensor:
        for layer in reversed(self):
            x = layer(x)
        return x


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)),  # zero padding comes after the norm
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)),
        Backwards(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)),
    ],
    ids=["norm first", "after ReLU", "no statistics", "not in order"],
)
def test_a_norm_that_cannot_be_folded_stays(net: nn.Module) -> None:
    net = net.double().eval()
    assert nn.BatchNorm2d in _kinds(fold_norms(net))
    _assert_same(fold_norms(net), net, torch.randn(2, 4, 7, 5, dtype=torch.float64))


def test_a_norm_in_training_is_no_fixed_function_and_refused() -> None:
    with pytest.raises(ValueError, match="eval mode"):
        fold_norms(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)))


def test_a_variance_that_fp16_cannot_hold_does_no_harm_once_it_is_folded() -> None:
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval()
    net[1].running_var.fill_(1e6)
    x = 1000 * torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        expected = net(x)
        assert torch.allclose(fold_norms(net).half()(x.half()).float(), expected, atol=1e-2)
        assert not torch.allclose(net.half()(x.half()).float(), expected, atol=1e-2)


def test_only_the_scale_of_the_input_could_move_into_a_padded_convolution_not_its_shift() -> None:
    conv = nn.Conv2d(3, 4, 4, stride=2, padding=1).double()
    x = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    scaled, shifted = copy.deepcopy(conv), copy.deepcopy(conv)
    with torch.no_grad():
        scaled.weight *= 2
        shifted.bias -= shifted.weight.sum(dim=(1, 2, 3))
        torch.testing.assert_close(scaled(x), conv(x * 2), rtol=0, atol=1e-12)
        difference = (shifted(x) - conv(x - 1)).abs()
    assert difference[..., 1:-1, 1:-1].max() < 1e-12  # it is right away from the border,
    assert difference.amax(dim=(0, 1))[0].min() > 1e-3  # and wrong at the border


@pytest.mark.parametrize("rewrite", [deconvs_as_conv2, deconvs_as_conv3], ids=lambda rewrite: rewrite.__name__)
@torch.no_grad()
def test_a_rewritten_unet_has_neither_norm_nor_transposed_convolution_and_is_the_same(rewrite: Pass) -> None:
    net = unet().double()
    x = torch.rand(2, 3, 64, 32, dtype=torch.float64)
    rewritten = rewrite(fold_norms(net))
    assert not {nn.BatchNorm2d, nn.ConvTranspose2d} & _kinds(rewritten)
    torch.testing.assert_close(rewritten(x), net(x), rtol=0, atol=1e-6)  # the network's last step is FP32


@pytest.mark.parametrize("rewrite", PASSES.values(), ids=lambda rewrite: rewrite.__name__)
def test_a_rewrite_leaves_the_network_unchanged(rewrite: Pass) -> None:
    net = unet()
    before, kinds = {k: v.clone() for k, v in net.state_dict().items()}, [type(m) for m in net.modules()]
    rewrite(net)
    assert [type(m) for m in net.modules()] == kinds
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_norms_are_folded_for_every_engine_and_transposed_convolutions_rewritten_only_for_amx(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choices = {}
    for amx in (False, True):
        monkeypatch.setattr(openvino, "cpu_flags", lambda amx=amx: frozenset({"amx_bf16"} if amx else ()))
        choices |= {
            (backend, precision, amx): implementation(backend).rewrites(precision)
            for backend in BACKENDS
            for precision in get_args(EnginePrecision)
        }
    assert choices.pop(("openvino", "bf16", True)) == (fold_norms, deconvs_as_conv3)
    assert set(choices.values()) == {(fold_norms,)}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_rewritten_unet_builds_as_a_plan_in_fp16_and_in_bf16_which_holds_no_other_weights(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    graph = purifier_graph(unet(), passes=(fold_norms, deconvs_as_conv3)).to(dtype)
    file = tmp_path / "purifier.onnx"
    export_onnx(graph, file, 32)
    made = onnx.load(file).graph
    assert not {"BatchNormalization", "ConvTranspose"} & {node.op_type for node in made.node}
    typed = {torch.float16: onnx.TensorProto.FLOAT16, torch.bfloat16: onnx.TensorProto.BFLOAT16}[dtype]
    assert {t.data_type for t in made.initializer if len(t.dims) == 4} == {typed}
    plan = tensorrt_rtx.build_plan(file, image_size=32, batch_size=2, target="SM86")
    assert len(plan) > 1000
