"""What describes an attack."""

from dataclasses import dataclass
from typing import Literal

from purifyctl.config.values import require

AttackKind = Literal[
    "fgsm", "bim", "least-likely", "pgd", "mi-fgsm", "dim", "square",
    "deepfool", "jsma", "universal", "one-pixel", "cw", "autoattack",
]  # fmt: skip
GRADIENT_ATTACKS = ("fgsm", "bim", "least-likely", "pgd", "mi-fgsm", "dim")
EOT_ATTACKS = (*GRADIENT_ATTACKS, "autoattack")  # can average gradients over passes
QUERY_ATTACKS = ("square", "one-pixel")  # need a model's outputs only
UNBOUNDED_ATTACKS: tuple[AttackKind, ...] = (
    "deepfool",
    "cw",
)  # search the nearest boundary; what they find is cut to the budget
TARGETED_ATTACKS = ("fgsm", "bim", "pgd", "mi-fgsm", "dim", "square", "jsma", "one-pixel", "cw")

# What reports call an attack, and the steps it gets unless told otherwise: gradient steps; queries (square), pairs of
# values touched (jsma), passes over the images (universal), generations of 400 candidates (one-pixel), or gradient
# steps for each of 9 constants (cw).
_ATTACKS: dict[str, tuple[str, int]] = {
    "fgsm": ("FGSM", 1),
    "bim": ("BIM", 10),
    "least-likely": ("Least-likely", 10),
    "pgd": ("PGD", 10),
    "mi-fgsm": ("MI-FGSM", 10),
    "dim": ("DIM", 10),
    "square": ("Square", 5000),
    "deepfool": ("DeepFool", 50),
    "jsma": ("JSMA", 100),
    "universal": ("Universal", 10),
    "one-pixel": ("One-pixel", 100),
    "cw": ("C&W", 100),
    "autoattack": ("AutoAttack", 0),
}


@dataclass(frozen=True)
class AttackConfig:
    """An attack, apart from its budget. What each kind does: `purifyctl.attacks`."""

    kind: AttackKind  # what each does: purifyctl.attacks
    steps: int = 0  # 0: the attack's usual number
    restarts: int = 1  # runs from different random starts; each image keeps its most successful one
    eot: int = 1  # gradients averaged over so many passes, for models that are random; AutoAttack: version "rand"
    targeted: bool = False  # towards the label it is given, not away from it

    def __post_init__(self) -> None:
        name = self.label
        require(self.steps >= 0, f"steps is {self.steps}; it must not be negative.")
        require(self.kind != "fgsm" or self.steps <= 1, "FGSM has one step; use pgd for more.")
        require(self.kind != "autoattack" or self.steps == 0, "AutoAttack fixes its own steps; give it none.")
        require(self.restarts >= 1, f"restarts is {self.restarts}; it must be at least 1.")
        require(self.restarts == 1 or self.kind == "pgd", f"restarts are for pgd; {name} has no random start.")
        require(self.eot >= 1, f"eot is {self.eot}; it must be at least 1.")
        require(
            self.eot == 1 or self.kind in EOT_ATTACKS,
            f"eot averages gradients over passes; {name} does not offer that.",
        )
        require(
            not self.targeted or self.kind in TARGETED_ATTACKS,
            f"{name} cannot be given a target; these can: {', '.join(TARGETED_ATTACKS)}.",
        )

    @property
    def effective_steps(self) -> int:
        """`steps`, or the attack's usual number. 0 for AutoAttack, which is four attacks with their own."""
        return self.steps or _ATTACKS[self.kind][1]

    @property
    def label(self) -> str:
        """The kind's name in reports, without numbers: `PGD`."""
        return _ATTACKS[self.kind][0]

    @property
    def name(self) -> str:
        """What every report calls it: `FGSM`, `PGD-10`, `PGD-100 x5`, `DIM-10 EOT 20 targeted`."""
        parts = [self.label if self.kind in ("fgsm", "autoattack") else f"{self.label}-{self.effective_steps}"]
        if self.restarts > 1:
            parts.append(f"x{self.restarts}")
        if self.eot > 1:
            parts.append(f"EOT {self.eot}")
        if self.targeted:
            parts.append("targeted")
        return " ".join(parts)
