"""Where a training stands: what `state.pt` holds."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from purifyctl.config.training import Precision
from purifyctl.training.phases import PlannedPhase


@dataclass
class State:
    """The loop moves it on; the run folder writes it and reads it."""

    phase: int = 0  # the number of the phase under way
    step: int = 0  # steps that are done, over all phases
    first_step: int = 0  # of the phase under way
    trained_s: float = 0.0  # seconds of steps, over all calls
    precision: Precision | None = None  # the one that was the fastest on this machine, where the recipe asks for that
    before: dict[str, Any] = field(default_factory=dict)  # held-out figures of the purifier that it starts from
    best: dict[str, Any] = field(default_factory=dict)  # held-out figures of the purifier that is kept; empty: none yet
    validations_since_best: int = 0  # scheduled ones of this phase
    seconds: float = 0.0  # of training, by earlier calls
    networks: dict[str, Any] | None = None  # what the phase's trainer loads; None: the phase begins

    def begin_phase(self, phase: PlannedPhase) -> None:
        """Move on to the first step of `phase`."""
        if not phase.config.minutes:
            self.step = int(phase.begin)
        self.phase, self.first_step = phase.number, self.step
        self.validations_since_best, self.networks = 0, None

    def to_save(self, networks: Mapping[str, Any], seconds: float) -> dict[str, Any]:
        """What `state.pt` holds: with the trainer's networks, after `seconds` of training in all."""
        figures = {"best": json.dumps(self.best), "before": json.dumps(self.before)}
        return {**self.__dict__, **figures, "networks": networks, "seconds": seconds}


def state_of(saved: Mapping[str, Any], phases: list[PlannedPhase]) -> State:
    """The state that was saved, perhaps by version 0.1.0, which had fewer keys."""
    phase = int(saved["phase"])
    return State(
        phase=phase,
        step=int(saved["step"]),
        first_step=int(saved.get("first_step", phases[phase].begin)),
        trained_s=float(saved.get("trained_s", 0.0)),
        precision=saved.get("precision"),
        before=json.loads(saved.get("before", "{}")),
        best=json.loads(saved["best"]),
        validations_since_best=int(saved["validations_since_best"]),
        seconds=float(saved["seconds"]),
        networks=saved["networks"],
    )
