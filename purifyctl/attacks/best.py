"""The best of several attacked versions of each image."""

import torch
from torch import Tensor
from torch.nn import functional as F

from purifyctl.attacks.model import Model


class Best:
    """Holds the best of several attacked versions of each image: success counts first, then the loss.

    Attributes
    ----------
    images
        The best versions so far; the clean images until one is offered.
    success
        [N] in [0, 1]: the share of `eot` passes in which they succeed; -1 until one is offered.
    """

    def __init__(self, model: Model, x: Tensor, y: Tensor, *, targeted: bool = False, eot: int = 1) -> None:
        """`y`: the labels to move away from; with `targeted`, to move towards. [N] int64."""
        self.images = x.clone()
        self.success = torch.full((len(x),), -1.0, device=x.device)
        self._loss = torch.zeros_like(self.success)
        self._model, self._y, self._targeted, self._eot = model, y, targeted, eot

    @torch.no_grad()
    def offer(self, x_adv: Tensor, at: Tensor | None = None) -> None:
        """Keep the versions that are better. `at`: the indices of their images; None: all images."""
        at = torch.arange(len(self.images), device=x_adv.device) if at is None else at
        success, loss = self._judge(x_adv, self._y[at])
        better = (success > self.success[at]) | ((success == self.success[at]) & (loss > self._loss[at]))
        chosen = at[better]
        self.images[chosen] = x_adv[better]
        self.success[chosen], self._loss[chosen] = success[better], loss[better]

    def _judge(self, x_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """For each image: the share of passes in which the attack succeeds, and the mean loss that it raises."""
        success, loss = torch.zeros(len(y), device=y.device), torch.zeros(len(y), device=y.device)
        for _ in range(self._eot):
            logits = self._model(x_adv).float()
            success += (logits.argmax(1) == y) == self._targeted
            loss += F.cross_entropy(logits, y, reduction="none") * (-1 if self._targeted else 1)
        return success / self._eot, loss / self._eot
