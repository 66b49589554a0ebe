"""One attack, as flags and recipes describe it: its kind, and how strong it is."""

from dataclasses import dataclass

from purifyctl.config.attacks import ATTACKS, BY_KIND, WITH_RESTARTS, Attack, AttackKind
from purifyctl.config.values import require
from purifyctl.errors import ConfigError


@dataclass(frozen=True)
class AttackConfig:
    """An attack, apart from its budget. What each kind does: `purifyctl.attacks`."""

    kind: AttackKind  # what each does: purifyctl.attacks
    steps: int = 0  # 0: the attack's usual number
    restarts: int = 1  # runs from different random starts; each image keeps its most successful one
    eot: int = 1  # passes that each gradient is averaged over, for models that are random; AutoAttack: version "rand"
    targeted: bool = False  # towards the label it is given, not away from it

    def __post_init__(self) -> None:
        if self.kind not in BY_KIND:
            raise ConfigError(f"There is no attack {self.kind!r}.", hint=f"attacks: {', '.join(BY_KIND)}")
        name, record = self.label, self.record
        with_targets = ", ".join(attack.kind for attack in ATTACKS if attack.can_be_targeted)
        ask_for = "has one step; use pgd for more" if record.default_steps == 1 else "fixes its own steps; give it none"
        require(self.steps >= 0, f"steps is {self.steps}; it must not be negative.")
        require(not record.fixed_steps or self.steps <= record.default_steps, f"{name} {ask_for}.")
        require(self.restarts >= 1, f"restarts is {self.restarts}; it must be at least 1.")
        require(
            self.restarts == 1 or record.can_restart, f"restarts are for {WITH_RESTARTS}; {name} has no random start."
        )
        require(self.eot >= 1, f"eot is {self.eot}; it must be at least 1.")
        require(self.eot == 1 or record.can_average, f"eot averages gradients over passes; {name} does not offer that.")
        require(
            not self.targeted or record.can_be_targeted,
            f"{name} cannot be given a target; these can: {with_targets}.",
        )

    @property
    def record(self) -> Attack:
        """What is known about this kind of attack."""
        return BY_KIND[self.kind]

    @property
    def effective_steps(self) -> int:
        """`steps`, or the attack's usual number. 0 for AutoAttack, which is four attacks with their own."""
        return self.steps or self.record.default_steps

    @property
    def label(self) -> str:
        """The kind's name in reports, without numbers: `PGD`."""
        return self.record.label

    @property
    def name(self) -> str:
        """What every report calls it: `FGSM`, `PGD-10`, `PGD-100 x5`, `DIM-10 EOT 20 targeted`."""
        parts = [self.label if self.record.fixed_steps else f"{self.label}-{self.effective_steps}"]
        if self.restarts > 1:
            parts.append(f"x{self.restarts}")
        if self.eot > 1:
            parts.append(f"EOT {self.eot}")
        if self.targeted:
            parts.append("targeted")
        return " ".join(parts)
