"""The phases of a training: where each begins and ends, and what changes within it."""

import math
from dataclasses import dataclass
from typing import Literal

from purifyctl.config import Phase, TrainConfig


@dataclass(frozen=True)
class PlannedPhase:
    """One phase. Its places are steps of the whole training, from 0; where the recipe has minutes, seconds of training.

    Seconds of training are those of steps: neither validations nor the time between two calls count.
    """

    number: int  # from 0
    name: str
    config: TrainConfig  # what holds in this phase
    goes_on_from: Literal["last", "best"]  # which purifier of the phase before
    begin: float  # its first place
    end: float  # the place after its last
    cosine_begin: float  # where the cosine begins that it is part of ...
    cosine_end: float  # ... and where that ends: several phases may share one

    def learning_rate(self, place: float) -> float:
        """Adam's learning rate at `place`."""
        if self.config.schedule == "constant":
            return self.config.learning_rate
        done = min(1.0, (place - self.cosine_begin) / (self.cosine_end - self.cosine_begin))
        return self.config.learning_rate * 0.5 * (1 + math.cos(math.pi * done))

    def growth(self, place: float) -> float:
        """The share of their budgets, in [0, 1], that attacks through the purifier have at `place`, a step."""
        if not self.config.growth_epochs:
            return 1.0
        epochs = (place - self.begin + 1) * self.config.epochs / (self.end - self.begin)
        return min(1.0, epochs / self.config.growth_epochs)


def plan_phases(config: TrainConfig, steps_per_epoch: int) -> list[PlannedPhase]:
    """The phases of a recipe. A recipe that names none has one, `train`."""
    phases = config.phases or (Phase("train", config.epochs),)
    configs = [config.in_phase(phase) for phase in phases] if config.phases else [config]
    epochs = [sum(phase.epochs for phase in phases[: n + 1]) for n in range(len(phases))]
    unit = 60 * config.minutes / epochs[-1] if config.minutes else steps_per_epoch
    ends = [unit * done for done in epochs]
    begins = [0, *ends[:-1]]
    planned = []
    for n, phase in enumerate(phases):
        first = max(k for k in range(n + 1) if not phases[k].continues_schedule)
        last = next((k for k in range(n, len(phases) - 1) if not phases[k + 1].continues_schedule), len(phases) - 1)
        planned.append(
            PlannedPhase(
                number=n,
                name=phase.name,
                config=configs[n],
                goes_on_from=phase.goes_on_from,
                begin=begins[n],
                end=ends[n],
                cosine_begin=begins[first],
                cosine_end=ends[last],
            )
        )
    return planned
