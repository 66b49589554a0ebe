"""What a training step asks of an objective.

x              clean photographs, RGB NCHW float in [0, 1]
x_adv          attacked x, rounded to 8 bits as files are
x_pur          G(x_adv), the purified images
clean_logits   the frozen classifier's logits of x
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from purifyctl.attacks import Model


@dataclass(frozen=True)
class StepData:
    """What the networks see in one step."""

    x: Tensor  # RGB NCHW float in [0, 1]
    x_adv: Tensor  # the same shape
    clean_logits: Tensor  # [N, classes]
    classifier: int  # which of the phase's classifiers was attacked, and guides this step


class Objective(Protocol):
    """What a purifier learns. Its loss is the weighted sum of the terms."""

    attacks_images: bool  # False: a step leaves all of its images clean

    def attacked_through(self, purifier: nn.Module, classifier: Model) -> Model:
        """What an attack through the purifier goes through."""

    def output(self, purifier: nn.Module, data: StepData) -> Tensor:
        """What the purifier makes of the step's images: what the terms judge."""

    def terms(self, data: StepData, output: Tensor, discriminator: nn.Module | None) -> dict[str, Tensor]:
        """The loss terms, each before it is weighted, by the name of its weight in `[objective]`."""
