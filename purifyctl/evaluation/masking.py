"""Signs that an attack failed for reasons other than robustness (Athalye et al. 2018, Carlini et al. 2019).

Each check takes per-image outcomes, and returns its finding as one line, or None. A raised check does not make a number
wrong. It says that an attacker may be able to do more than the number shows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]  # [n], one per image
# A share of the images, and at least one image: random starts and rounding change single outcomes without any masking.
TOLERANCE = 0.01


@dataclass(frozen=True)
class Check:
    """What a check means, for the report."""

    raised_if: str
    explanation: str


CHECKS = {
    "randomness": Check(
        "two passes of one image through the defence differ",
        "Attacks that see one pass look weaker than they are; average over passes (EOT 20, AutoAttack rand).",
    ),
    "softmax": Check(
        "the classifier's outputs are non-negative and sum to 1",
        "Attacks expect logits; through a softmax gradients vanish. Return logits.",
    ),
    "zero gradients": Check(
        "the gradient through the defence is zero in every pixel, for some images",
        "Gradient attacks stand still on these images: robustness to them is not shown.",
    ),
    "less knowledge does better": Check(
        "black-box, transfer, gray-box or BPDA leaves fewer images right than the adaptive white-box attack",
        "An attacker who knows more can do at least as well; the white-box attack is stuck on bad gradients.",
    ),
    "more steps do worse": Check(
        "more gradient steps leave more images right",
        "More steps can only help an attacker whose gradients are useful.",
    ),
    "the attack's own flag": Check(
        "AutoAttack warns that it may overrate the defence",
        "See docs/flags.md of AutoAttack: randomness, vanishing gradients, Square doing better than gradients.",
    ),
    "nothing changes": Check(
        "an attack on the whole pipeline changes no prediction at a budget at which another attack changes some",
        "Its gradients or queries are useless, as behind a decision without a gradient: robustness is not shown.",
    ),
    "label leak": Check(
        "accuracy on attacked images exceeds accuracy on clean ones, through the same defence",
        "The perturbation shows the defence the true label (Kurakin et al. 2017); the accuracy is not robustness.",
    ),
}


@dataclass(frozen=True)
class Finding:
    """A raised check."""

    check: str  # a key of CHECKS
    text: str


def randomness(differs: Flags) -> Finding | None:
    """`differs`: per image, whether two passes disagreed."""
    if not differs.any():
        return None
    return Finding("randomness", f"{_of(differs)} images come out differently in a second pass")


def softmax(outputs_are_probabilities: Flags) -> Finding | None:
    """Takes what `are_probabilities` says per image. It is raised only if all images agree: one may by chance."""
    if not len(outputs_are_probabilities) or not outputs_are_probabilities.all():
        return None
    return Finding("softmax", "the classifier returns probabilities, not logits")


def are_probabilities(outputs: NDArray[np.float32]) -> Flags:
    """Per image, whether a classifier's outputs [n, classes] are non-negative and sum to 1."""
    flags: Flags = (outputs.min(1) >= 0) & (np.abs(outputs.sum(1) - 1) < 1e-3)
    return flags


def zero_gradients(zero: Flags) -> Finding | None:
    """`zero`: per image, whether the loss's gradient by the image is zero in every pixel."""
    if not zero.any():
        return None
    return Finding("zero gradients", f"the gradient is zero for {_of(zero)} images")


def less_knowledge_does_better(right: Flags, weaker_right: Flags, weaker: str) -> Finding | None:
    """`right`: the images that the adaptive white-box attack leaves right; `weaker_right`: the same under `weaker`."""
    if not _exceeds(right, weaker_right):
        return None
    return Finding("less knowledge does better", f"{weaker} leaves {_of(weaker_right)} right, this attack {_of(right)}")


def more_steps_do_worse(right: Flags, fewer_steps_right: Flags, fewer: str) -> Finding | None:
    """`right`: the images that the attack with more steps leaves right; `fewer_steps_right`: the same under `fewer`."""
    if not _exceeds(right, fewer_steps_right):
        return None
    return Finding("more steps do worse", f"{fewer} leaves {_of(fewer_steps_right)} right, this attack {_of(right)}")


def nothing_changes(changed: Flags, changed_by_other: Flags, other: str) -> Finding | None:
    """`changed`: the images whose prediction an attack changes; `changed_by_other`: the same of another attack."""
    if not len(changed) or changed.any() or not _exceeds(changed_by_other, np.zeros_like(changed_by_other)):
        return None
    text = f"this attack changes {_of(changed)} predictions, {other} {_of(changed_by_other)}"
    return Finding("nothing changes", text)


def label_leak(right: Flags, clean_right: Flags) -> Finding | None:
    """Behind one defence: which images are right under attack, and which are right when clean."""
    if not _exceeds(right, clean_right):
        return None
    return Finding("label leak", f"{_of(right)} are right when attacked, {_of(clean_right)} when clean")


def own_flags(texts: Sequence[str]) -> Finding | None:
    """`texts`: warnings of the attack's library."""
    if not texts:
        return None
    return Finding("the attack's own flag", "; ".join(dict.fromkeys(texts)))


def _exceeds(right: Flags, other: Flags) -> bool:
    return bool(right.sum() > other.sum() + max(1, TOLERANCE * len(right)))


def _of(flags: Flags | Sequence[bool]) -> str:
    return f"{int(np.sum(flags))} of {len(flags)}"
