"""Purifier networks, the discriminator, and the losses that train them.

Every purifier maps RGB NCHW float in [0, 1] to the same shape and range, and is made by `build_purifier`.
"""

from torch import nn

from purifyctl.config import NetworkConfig
from purifyctl.nn.any_size import AnySize
from purifyctl.nn.patchgan import PatchDiscriminator
from purifyctl.nn.redraw import RedrawPurifier
from purifyctl.nn.residual import ResidualPurifier
from purifyctl.nn.unet import UNetPurifier

__all__ = ["AnySize", "PatchDiscriminator", "RedrawPurifier", "ResidualPurifier", "UNetPurifier", "build_purifier"]


def build_purifier(config: NetworkConfig) -> nn.Module:
    """The purifier that `config` describes, with fresh weights."""
    if config.kind == "unet":
        return UNetPurifier(width=config.width, depth=config.depth)
    if config.kind == "redraw":
        return RedrawPurifier(config.width, config.depth, config.reduce, config.classes)
    return ResidualPurifier(width=config.width, depth=config.depth)
