"""What the classifier says of the clean images of a step: it is needed as a target, and attacks begin with it."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from purifyctl.attacks import Model
from purifyctl.attacks.model import known_at
from purifyctl.config import TrainingAttack
from purifyctl.training.attack_sampling import Sampled


def classify_clean(
    classifier: Model, x: Tensor, attacks: Sequence[TrainingAttack], sampled: Sampled
) -> tuple[Tensor, Mapping[int, Model]]:
    """Logits [N, classes] of clean images, and the classifier as attacks see it, by their number in the recipe.

    An attack whose first gradient is that at the clean image (FGSM) finds the logits there already, which saves a
    twelfth of a step's time. The other attacks are not in the mapping.
    """
    logits: list[tuple[Tensor, Tensor]] = []  # which images, and theirs
    known: dict[int, Model] = {}
    rest = torch.ones_like(sampled.attacked)
    for number, attack in enumerate(attacks):
        these = sampled.attacked & (sampled.kind == number)
        if attack.record.starts_clean and attack.through == "classifier" and these.any():
            some = x[these].requires_grad_(True)
            with torch.enable_grad():
                found = classifier(some)
            known[number] = known_at(classifier, some, found)
            logits.append((these, found.detach()))
            rest &= ~these
    if not known:
        with torch.no_grad():
            return classifier(x).float(), known
    if rest.any():
        with torch.no_grad():
            logits.append((rest, classifier(x[rest])))
    joined = torch.empty(len(x), logits[0][1].shape[1], device=x.device)
    for these, found in logits:
        joined[these] = found.float()
    return joined, known
