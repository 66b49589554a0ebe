"""Exact rewrites of a network before it is exported: the same function, from layers that a backend runs better.

Each pass takes a network in eval mode and returns another one. The network passed in does not change. Each backend's
`rewrites` says which passes its engines get (docs/adr/0004).

Two rewrites are not here. The shift of the input to [-1, 1], or by a dataset's mean, cannot move into the first
convolution: zero padding is added after the shift, so the result would differ at the borders. The exporter itself
leaves out dropout.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Pass = Callable[[nn.Module], nn.Module]


def fold_norms(net: nn.Module) -> nn.Module:
    """Fold each batch norm into the convolution or transposed convolution right before it.

    Weights are folded in FP64 and rounded once. An FP16 graph then holds no variance that could overflow. This pass
    comes before the one below, which puts a pixel shuffle between a convolution and its norm.

    It handles only plain `nn.Sequential`s, which execute their layers in order. Norms that follow another layer, or
    that have no running statistics, stay.

    Raises
    ------
    ValueError
        A norm is in training mode, in which it is not a fixed function.
    """
    return _rebuilt(net, _folded)


def deconvs_as_conv3(net: nn.Module) -> nn.Module:
    """Write each transposed convolution as a 3x3 convolution and a pixel shuffle.

    It does 9 multiplications where 4 are needed, but in the most common kind of convolution. CPU libraries run
    transposed convolutions in FP32, whatever precision is asked for.

    Raises
    ------
    ValueError
        There is a transposed convolution other than 4x4, stride 2, padding 1.
    """
    return _rebuilt(net, _conv3)


def _rebuilt(net: nn.Module, change: Callable[[nn.Module], nn.Module]) -> nn.Module:
    """A copy of `net`, in eval mode, with each of its modules changed, inner ones first."""

    def visit(module: nn.Module) -> nn.Module:
        for name, child in module.named_children():
            setattr(module, name, visit(child))
        return change(module)

    return visit(copy.deepcopy(net)).eval()


def _folded(module: nn.Module) -> nn.Module:
    if type(module) is not nn.Sequential:  # a subclass may run its layers in another order
        return module
    layers: list[nn.Module] = []
    for layer in module:
        before = layers[-1] if layers else None
        if not isinstance(layer, nn.BatchNorm2d) or not isinstance(before, nn.Conv2d | nn.ConvTranspose2d):
            layers.append(layer)
        elif layer.training:
            raise ValueError("norms are folded in eval mode only")
        elif layer.running_var is None or (isinstance(before, nn.ConvTranspose2d) and before.groups > 1):
            layers.append(layer)  # it is not a fixed function; or the weights of the groups are laid out differently
        else:
            wide = copy.deepcopy(before).double(), copy.deepcopy(layer).double()
            folded = fuse_conv_bn_eval(*wide, transpose=isinstance(before, nn.ConvTranspose2d))
            layers[-1] = folded.to(before.weight.dtype)
    return module if len(layers) == len(module) else nn.Sequential(*layers)


def deconvs_as_conv2(net: nn.Module) -> nn.Module:
    """Write each transposed convolution as one 2x2 convolution, a pixel shuffle and a crop by one pixel.

    It wastes no multiplication, but computes one row and one column of positions more than are needed.

    Raises
    ------
    ValueError
        As `deconvs_as_conv3`.
    """
    return _rebuilt(net, _conv2)


# Along one axis, output 2i sees inputs i-1 and i through taps 3 and 1; output 2i+1 sees inputs i and i+1 through taps
# 2 and 0.
_TAPS = torch.tensor([[3, 1], [2, 0]])


def _kernels(deconv: nn.ConvTranspose2d) -> Tensor:
    """The 2x2 kernels of the four outputs around each input: [row, column, n_out, n_in, 2, 2]."""
    shape = (deconv.kernel_size, deconv.stride, deconv.padding, deconv.output_padding, deconv.dilation, deconv.groups)
    if shape != ((4, 4), (2, 2), (1, 1), (0, 0), (1, 1), 1):
        raise ValueError(f"only 4x4 stride 2 padding 1 transposed convolutions can be rewritten, not {deconv}")
    return deconv.weight.detach()[:, :, _TAPS][..., _TAPS].permute(2, 4, 1, 0, 3, 5)


def _conv(kernel: Tensor, deconv: nn.ConvTranspose2d) -> nn.Conv2d:
    """A convolution, padded by 1, with these weights: [n_out, row, column, n_in, k, k], in pixel shuffle's order."""
    flat = kernel.flatten(0, 2)
    conv = nn.Conv2d(flat.shape[1], len(flat), flat.shape[2], padding=1, bias=deconv.bias is not None, dtype=flat.dtype)
    conv.weight = nn.Parameter(flat.contiguous())
    if deconv.bias is not None:
        conv.bias = nn.Parameter(deconv.bias.detach().repeat_interleave(4))
    return conv


def _conv3(module: nn.Module) -> nn.Module:
    if not isinstance(module, nn.ConvTranspose2d):
        return module
    kernels = _kernels(module)
    _, _, n_out, n_in, _, _ = kernels.shape
    kernel = kernels.new_zeros(n_out, 2, 2, n_in, 3, 3)
    for row in range(2):
        for col in range(2):
            kernel[:, row, col, :, row : row + 2, col : col + 2] = kernels[row, col]
    return nn.Sequential(_conv(kernel, module), nn.PixelShuffle(2))


def _conv2(module: nn.Module) -> nn.Module:
    if not isinstance(module, nn.ConvTranspose2d):
        return module
    # Position i of the padded convolution sees inputs i-1 and i: what output 2i needs, and output 2i-1. Shuffled with
    # the odd output first, they lie in order, after one row and one column that belong to no output.
    kernel = _kernels(module).flip(0, 1).permute(2, 0, 1, 3, 4, 5)
    return nn.Sequential(_conv(kernel, module), nn.PixelShuffle(2), _Crop())


class _Crop(nn.Module):
    """[N, C, H, W] without its outermost pixels."""

    def forward(self, x: Tensor) -> Tensor:
        return x[..., 1:-1, 1:-1]


PASSES: dict[str, Pass] = {rewrite.__name__: rewrite for rewrite in (fold_norms, deconvs_as_conv2, deconvs_as_conv3)}
