"""The ladder: which attacks are made, on what, by whom, and with which budget. Every rung is reported."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from purifyctl.config import (
    AttackConfig,
    EpsSpace,
    eps_scale,
    format_eps,
    grey_levels,
)
from purifyctl.config.evaluate import THREAT_MODELS, ThreatModel
from purifyctl.errors import ConfigError
from purifyctl.evaluation.defences import NONE

WHAT_IT_KNOWS = {
    "clean": "no attack: the price of the defence",
    "gray_box": "the attacker knows the classifier, not the defence (the paper's setting)",
    "transfer": "examples made on another classifier",
    "black_box": "the attacker asks the whole pipeline and sees its outputs, no gradients",
    "adaptive": "the attacker differentiates through defence and classifier together",
}

SPACES: dict[EpsSpace, str] = {"unit": "[0, 1]", "signed": "[-1, 1]", "mean-std": "mean/std units"}
EPS = (2 / 255, 4 / 255, 8 / 255, 16 / 255)  # L-infinity in [0, 1]
PAPER_EPS = 0.3  # the paper's budget; it does not say in which range of pixel values
PAPER_ATTACKS = (AttackConfig("fgsm"), AttackConfig("pgd", steps=10))

GRAY_BOX = (
    *PAPER_ATTACKS,
    AttackConfig("pgd", steps=100),
    AttackConfig("mi-fgsm"),
    AttackConfig("deepfool"),
    AttackConfig("cw"),
)
TRANSFER = (AttackConfig("pgd", steps=10), AttackConfig("mi-fgsm"), AttackConfig("dim"))
BLACK_BOX = (AttackConfig("square"),)
ADAPTIVE = (AttackConfig("pgd", steps=10), AttackConfig("pgd", steps=100, restarts=5), AttackConfig("autoattack"))
BPDA = AttackConfig("pgd", steps=100)  # the sanity check: the purifier's gradient counts as the identity's
EOT = 20  # passes per gradient if the defence is random


@dataclass(frozen=True)
class Rung:
    """One attack under one threat model at one budget."""

    threat_model: ThreatModel
    attack: AttackConfig | None = None  # None: clean
    eps: float = 0.0  # L-infinity in [0, 1]
    surrogate: str = ""  # transfer: the classifier that examples are made on
    pipeline: str = ""  # black_box, adaptive: the defence that is attacked together with the classifier
    bpda: bool = False  # adaptive: the defence's gradient is replaced by the identity's

    @property
    def name(self) -> str:
        """The attack, as reports print it: `PGD-100 x5`, `DIM on resnet101`, `PGD-100 (BPDA identity)`."""
        if self.attack is None:
            return "clean"
        on = f" on {self.surrogate}" if self.surrogate else ""
        return f"{self.attack.name}{on}{' (BPDA identity)' if self.bpda else ''}"

    @property
    def title(self) -> str:
        """The attack with its budget: `PGD-10 8/255`."""
        return f"{self.name} {format_eps(self.eps)}" if self.attack else self.name

    @property
    def key(self) -> str:
        """Names the rung's folder, and seeds its randomness."""
        if self.attack is None:
            return "clean"
        parts = (self.threat_model, self.pipeline, self.name, f"{self.eps * 255:.4g}")
        return "-".join(re.sub(r"[^\w.]+", "_", part.lower()).strip("_") for part in parts if part)

    @property
    def expensive(self) -> bool:
        """Whether fewer images climb it (`--expensive-limit`)."""
        by_threat = self.threat_model in ("black_box", "adaptive")
        return self.attack is not None and (by_threat or self.attack.record.expensive)


def build_ladder(
    *,
    threat_models: Sequence[ThreatModel],
    eps: Sequence[float],
    attacks: Sequence[AttackConfig] = (),
    surrogates: Sequence[str] = (),
    pipelines: Sequence[str] = (),
    random: Sequence[str] = (),
    paper_eps: Sequence[float] = (),
    explicit: bool = True,
) -> tuple[Rung, ...]:
    """The rungs in the order they are climbed; the clean one is always the first.

    Parameters
    ----------
    eps
        L-infinity budgets in [0, 1].
    attacks
        They replace the protocol's attacks. Query attacks are black-box; the others have the other threat models.
    surrogates
        Classifiers that transfer examples are made on.
    pipelines
        Defences that the adaptive and the black-box attacker attack together with the classifier.
    random
        The pipelines that are random at inference. Adaptive attacks on them average each gradient over `EOT` passes.
    paper_eps
        Readings of the paper's budget, in [0, 1]. Every gray-box attack gets the first one, the paper's own attacks get
        all of them.
    explicit
        True: a threat model without any attack is an error. False: it is left out.

    Raises
    ------
    ConfigError
        A threat model has no attack, a budget vanishes in an 8-bit image, or two rungs have the same name.
    """
    for value in (*eps, *paper_eps):
        if grey_levels(value) < 1:
            raise ConfigError(
                f"eps {format_eps(value)} is less than a grey level: an 8-bit image cannot hold it.",
                hint="use at least 1/255",
            )
    rungs = [Rung("clean")]
    for threat_model in THREAT_MODELS[1:]:
        if threat_model in threat_models:
            chosen = _attacks(threat_model, attacks)
            budgets = (*eps, *paper_eps[:1]) if threat_model == "gray_box" else eps
            made = _rungs(threat_model, chosen, budgets, surrogates, pipelines, random)
            if not made and explicit:
                needs = "a surrogate: --surrogate NAME" if threat_model == "transfer" else "another --attack"
                raise ConfigError(f"No rung of the ladder is left for {threat_model}.", hint=f"it needs {needs}")
            rungs += made
    if "gray_box" in threat_models:
        rungs += [Rung("gray_box", attack, value) for value in paper_eps for attack in PAPER_ATTACKS]
    ladder = tuple(dict.fromkeys(rungs))
    if len({rung.key for rung in ladder}) < len(ladder):
        raise ConfigError("Two rungs have the same name.", hint="use surrogates and budgets whose names differ more")
    return ladder


def _attacks(threat_model: ThreatModel, chosen: Sequence[AttackConfig]) -> tuple[AttackConfig, ...]:
    if not chosen:
        return {"gray_box": GRAY_BOX, "transfer": TRANSFER, "black_box": BLACK_BOX, "adaptive": ADAPTIVE}[threat_model]
    query = threat_model == "black_box"
    return tuple(attack for attack in chosen if (attack.record.family == "queries") == query)


def _rungs(
    threat_model: ThreatModel,
    attacks: Sequence[AttackConfig],
    eps: Sequence[float],
    surrogates: Sequence[str],
    pipelines: Sequence[str],
    random: Sequence[str],
) -> list[Rung]:
    if NONE in random:
        attacks = tuple(_averaged(attack) for attack in attacks)
    if threat_model == "gray_box":
        return [Rung(threat_model, attack, value) for attack in attacks for value in eps]
    if threat_model == "transfer":
        return [
            Rung(threat_model, attack, value, surrogate=name)
            for name in surrogates
            for attack in attacks
            for value in eps
        ]
    made = []
    signs = any(attack.record.family == "gradient sign" for attack in attacks)
    for pipeline in pipelines:
        climbed = [(attack, False) for attack in attacks]
        if threat_model == "adaptive" and pipeline != NONE and signs:
            climbed.append((BPDA, True))
        for attack, bpda in climbed:
            if pipeline in random:
                attack = _averaged(attack)
            made += [Rung(threat_model, attack, value, pipeline=pipeline, bpda=bpda) for value in eps]
    return made


def _averaged(attack: AttackConfig) -> AttackConfig:
    """The attack for a random model: it averages gradients, if it can."""
    return replace(attack, eot=EOT) if attack.record.can_average else attack


def paper_eps(std: Sequence[float], space: EpsSpace) -> dict[EpsSpace, float]:
    """The paper's eps in [0, 1], for each range of pixel values that the paper may mean: `space` first.

    Parameters
    ----------
    std
        The classifier's standard deviation, per channel. If the classifier does not normalise, the mean/std reading is
        left out. A reading that equals an earlier one is left out, too.
    """
    spaces: list[EpsSpace] = ["unit", "signed", "mean-std"] if min(std) != 1 else ["unit", "signed"]
    spaces.sort(key=lambda other: other != space)
    readings: dict[EpsSpace, float] = {}
    for other in spaces:
        eps = PAPER_EPS * eps_scale(other, std)
        if not any(math.isclose(eps, known) for known in readings.values()):
            readings[other] = eps
    return readings
