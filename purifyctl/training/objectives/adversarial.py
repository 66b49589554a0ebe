"""The two losses of a conditional GAN (Isola et al. 2017, section 3.1): the discriminator's and the purifier's."""

import torch
from torch import Tensor, nn

_cross_entropy = nn.functional.binary_cross_entropy_with_logits


def discriminator_loss(discriminator: nn.Module, x: Tensor, x_adv: Tensor, x_pur: Tensor) -> Tensor:
    """Clean images should be judged as clean, purified ones as purified, given the attacked ones."""
    discriminator.requires_grad_(True)
    real = discriminator(x_adv, x)
    fake = discriminator(x_adv, x_pur.detach())  # detach: the discriminator's loss must not reach the purifier
    return (_cross_entropy(real, torch.ones_like(real)) + _cross_entropy(fake, torch.zeros_like(fake))) / 2


def purifier_loss(discriminator: nn.Module, x_adv: Tensor, x_pur: Tensor) -> Tensor:
    """Purified images should be judged as clean."""
    judged = discriminator.requires_grad_(False)(x_adv, x_pur)
    return _cross_entropy(judged, torch.ones_like(judged))
