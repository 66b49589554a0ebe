"""Exact rewrites of a network before it is exported: the same function from layers that a backend runs better.

Each pass takes a network in eval mode and returns another one; the one passed in is left as it is. `passes` says
which ones a backend gets (docs/adr/0004).

What is not here, since it would not be exact or not change the graph: the shift of the input to [-1, 1] or by a
dataset's mean cannot move into the first convolution, whose zero padding is added after it; dropout is left out by the
exporter itself.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Pass = Callable[[nn.Module], nn.Module]


def passes(backend: str, precision: str, *, amx: bool) -> tuple[Pass, ...]:
    """The passes for an engine, in order. `amx`: whether the CPU has matrix units for BF16."""
    if (backend, precision, amx) == ("openvino", "bf16", True):
        return fold_norms, deconvs_as_conv3
    return (fold_norms,)


def fold_norms(net: nn.Module) -> nn.Module:
    """Fold each batch norm into the convolution or transposed convolution right before it.

    Weights are folded in FP64 and rounded once; an FP16 graph then holds no variance that could overflow. Comes before
    the passes below: a pixel shuffle between a convolution and its norm hides one from the other.

    Only plain `nn.Sequential`s are looked into, where order of layers is order of execution. Norms that follow
    something else, or that have no running statistics, stay.

    Raises
    ------
    ValueError
        A norm is in training mode, where it is no fixed function.
    """
    return _rebuilt(net, _folded)


def deconvs_as_conv3(net: nn.Module) -> nn.Module:
    """Transposed convolutions as a 3x3 convolution and a pixel shuffle: 9 multiplications for every 4 needed.

    One convolution of the commonest kind. CPU libraries run transposed convolutions in FP32 whatever is asked for.

    Raises
    ------
    ValueError
        There is a transposed convolution other than 4x4, stride 2, padding 1. The two below raise it too.
    """
    return _rebuilt(net, _conv3)


def deconvs_as_conv2(net: nn.Module) -> nn.Module:
    """Transposed convolutions as one 2x2 convolution, a pixel shuffle and a crop by one pixel.

    No wasted taps; computes one row and one column of positions more than needed, which counts in small maps only.
    """
    return _rebuilt(net, _conv2)


def deconvs_as_four_conv2(net: nn.Module) -> nn.Module:
    """Transposed convolutions as four 2x2 convolutions, each padded on two sides, and an interleave: nothing wasted."""
    return _rebuilt(net, _four_conv2)


def _rebuilt(net: nn.Module, change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A copy of `net`, in eval mode, with each of its modules changed, inner ones first."""

    def visit(module: nn.Module) -> nn.Module:
        for name, child in module.named_children():
            setattr(module, name, visit(child))
        return change(module)

    return visit(copy.deepcopy(net)).eval()


def _folded(module: nn.Module) -> nn.Module:
    if type(module) is not nn.Sequential:  # a subclass may run its layers as it likes
        return module
    layers: list[nn.Module] = []
    for layer in module:
        before = layers[-1] if layers else None
        if not isinstance(layer, nn.BatchNorm2d) or not isinstance(before, nn.Conv2d | nn.ConvTranspose2d):
            layers.append(layer)
        elif layer.training:
            raise ValueError("norms are folded in eval mode only")
        elif layer.running_var is None or (isinstance(before, nn.ConvTranspose2d) and before.groups > 1):
            layers.append(layer)  # no fixed function; laid out otherwise
        else:
            wide = copy.deepcopy(before).double(), copy.deepcopy(layer).double()
            folded = fuse_conv_bn_eval(*wide, transpose=isinstance(before, nn.ConvTranspose2d))
            layers[-1] = folded.to(before.weight.dtype)
    return module if len(layers) == len(module) else nn.Sequential(*layers)


# Along one axis, output 2i sees inputs i-1 and i through taps 3 and 1; output 2i+1 sees i and i+1 through 2 and 0.
_TAPS = torch.tensor([[3, 1], [2, 0]])


def _kernels(deconv: nn.ConvTranspose2d) -> Tensor:
    """The 2x2 kernels of the four outputs around each input: [row, column, n_out, n_in, 2, 2]."""
    shape = (deconv.kernel_size, deconv.stride, deconv.padding, deconv.output_padding, deconv.dilation, deconv.groups)
    if shape != ((4, 4), (2, 2), (1, 1), (0, 0), (1, 1), 1):
        raise ValueError(f"only 4x4 stride 2 padding 1 transposed convolutions can be rewritten, not {deconv}")
    w = deconv.weight.detach()[:, :, _TAPS][..., _TAPS]  # [n_in, n_out, row, 2, column, 2]
    return w.permute(2, 4, 1, 0, 3, 5)


def _conv(kernel: Tensor, bias: Tensor | None, padding: int = 0) -> nn.Conv2d:
    """A convolution with these weights [n_out, n_in, k, k]."""
    n_out, n_in, k, _ = kernel.shape
    conv = nn.Conv2d(n_in, n_out, k, padding=padding, bias=bias is not None, dtype=kernel.dtype)
    conv.weight = nn.Parameter(kernel.contiguous())
    if bias is not None:
        conv.bias = nn.Parameter(bias.detach().clone())
    return conv


def _conv3(module: nn.Module) -> nn.Module:
    if not isinstance(module, nn.ConvTranspose2d):
        return module
    kernels = _kernels(module)
    _, _, n_out, n_in, _, _ = kernels.shape
    kernel = kernels.new_zeros(n_out, 2, 2, n_in, 3, 3)  # pixel shuffle's order: channel, row, column
    for row in range(2):
        for col in range(2):
            kernel[:, row, col, :, row : row + 2, col : col + 2] = kernels[row, col]
    return nn.Sequential(_conv(kernel.flatten(0, 2), _fourfold(module.bias), padding=1), nn.PixelShuffle(2))


def _conv2(module: nn.Module) -> nn.Module:
    if not isinstance(module, nn.ConvTranspose2d):
        return module
    # Position i of the padded convolution sees inputs i-1 and i: what output 2i needs, and output 2i-1. Shuffled with
    # the odd output first, they lie in order, after one row and one column that belong to no output.
    kernel = _kernels(module).flip(0, 1).permute(2, 0, 1, 3, 4, 5)
    return nn.Sequential(_conv(kernel.flatten(0, 2), _fourfold(module.bias), padding=1), nn.PixelShuffle(2), _Crop())


def _fourfold(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.repeat_interleave(4)


class _Crop(nn.Module):
    """[N, C, H, W] without its outermost pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., 1:-1, 1:-1]


def _four_conv2(module: nn.Module) -> nn.Module:
    return _FourConv2(module) if isinstance(module, nn.ConvTranspose2d) else module


class _FourConv2(nn.Module):
    """[N, n_in, H, W] -> [N, n_out, 2H, 2W]."""

    def __init__(self, deconv: nn.ConvTranspose2d) -> None:
        super().__init__()
        kernels = _kernels(deconv)
        self.convs = nn.ModuleList(
            nn.Sequential(nn.ZeroPad2d((1 - col, col, 1 - row, row)), _conv(kernels[row, col], deconv.bias))
            for row in range(2)
            for col in range(2)
        )

    def forward(self, x: Tensor) -> Tensor:
        outputs = torch.stack([conv(x) for conv in self.convs], dim=2)  # [N, n_out, 4, H, W]
        return nn.functional.pixel_shuffle(outputs.flatten(1, 2), 2)
