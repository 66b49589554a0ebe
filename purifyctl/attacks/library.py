"""What the attacks of libraries share: random states, the form of the model, and a missing package.

Libraries sample from global random states. Here these are seeded from our generator, and put back afterwards.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from purifyctl.attacks.model import Model
from purifyctl.errors import MissingDependencyError


@contextmanager
def for_library(generator: torch.Generator | None) -> Iterator[int]:
    """Turn gradients on, and seed the global random states of Python, NumPy and torch from `generator`.

    The states are put back afterwards. Yields the seed.
    """
    device = generator.device if generator else None
    seed = int(torch.randint(2**31, (), generator=generator, device=device))
    python, numpy = random.getstate(), np.random.get_state()
    with torch.enable_grad(), torch.random.fork_rng():
        try:
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            yield seed
        finally:
            random.setstate(python)
            np.random.set_state(numpy)


class AsModule(nn.Module):
    """`model` in the form that libraries want. They may change this module's mode and device, not the model's own."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._model = (model,)  # in a tuple: not registered as a submodule
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        # flattened and shaped again: then gradients are contiguous, as AutoAttack expects
        return self._model[0](x.flatten(1).view(x.shape))


@torch.no_grad()
def logits_of(model: Model, x: Tensor) -> Tensor:
    return model(x)


def missing(package: str, needed_for: str = "This attack") -> MissingDependencyError:
    """The error for a package that cannot be imported. The extra "attacks" brings it."""
    return MissingDependencyError(package, needed_for=needed_for, extra="attacks")
