"""What a trained gate finds: its calibration, its thresholds, and its figures on held-out photographs."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from purifyctl.attacks import make_attack
from purifyctl.classifiers import Classifier
from purifyctl.config import AttackConfig, GateConfig, format_eps
from purifyctl.config.picture_options import DEFAULTS, PictureOptions
from purifyctl.errors import TrainingError
from purifyctl.metrics import auroc, mean
from purifyctl.nn.gate import GateNetwork
from purifyctl.photographs import read_all
from purifyctl.sources import ImageFile
from purifyctl.thresholds import thresholds_at

HELD_OUT_ATTACKS = (AttackConfig("fgsm"), AttackConfig("pgd"), AttackConfig("mi-fgsm"))
HELD_OUT_EPS = (4 / 255, 8 / 255)
ATTACKED = 64  # held-out photographs that are attacked for the figures
BATCH = 16


def judge(
    net: GateNetwork,
    config: GateConfig,
    held_out: list[ImageFile],
    classifier: Classifier,
    device: torch.device,
    pictures: PictureOptions = DEFAULTS,
) -> dict[str, Any]:
    """Calibrate the gate on held-out photographs, which changes its last layer; measure its thresholds and figures.

    A photograph that is made much smaller is sharper, and looks more like an attacked one. So thresholds are found at
    each of the recipe's sizes, and the highest one counts. The figures belong to the first size.

    Raises
    ------
    TrainingError
        No attack changed a prediction, so there is nothing to calibrate on.
    """
    clean = [read_all(held_out, size, options=pictures)[0] for size in config.validation_sizes]
    attacked = _attacked(clean[0], classifier, device)
    if not any(map(len, attacked.values())):
        raise TrainingError(
            f"No attack changed a prediction of {classifier.name} on {len(clean[0])} held-out photographs.",
            hint="name a classifier that has learnt something, or a folder with more photographs as --photos",
        )
    logits = [_in_batches(net, x, device) for x in clean]
    found = {name: _in_batches(net, x, device) for name, x in attacked.items()}
    scale, shift = platt(torch.cat(logits), torch.cat(list(found.values())))
    with torch.no_grad():
        net.judge.weight *= scale
        net.judge.bias.mul_(scale).add_(shift)

    def scores(of: Tensor) -> NDArray[np.float32]:
        return torch.sigmoid(of.double() * scale + shift).float().numpy()

    thresholds = thresholds_at([scores(x) for x in logits])
    return {
        "n_clean": len(clean[0]),
        "sizes": list(config.validation_sizes),
        "thresholds": thresholds,
        "attacked": {
            name: {
                "n": len(x),
                "auroc": auroc(scores(logits[0]), scores(x)),
                "tpr": {
                    rate: mean((scores(x) >= threshold).astype(np.float64)) for rate, threshold in thresholds.items()
                },
            }
            for name, x in found.items()
        },
    }


@torch.no_grad()
def _in_batches(function: Callable[[Tensor], Tensor], x: Tensor, device: torch.device) -> Tensor:
    return torch.cat([function(batch.to(device)).cpu() for batch in torch.split(x, BATCH)])


def _attacked(clean: Tensor, classifier: Classifier, device: torch.device) -> dict[str, Tensor]:
    """Some photographs under each attack: only those whose prediction the attack changed."""
    some = clean[:: max(1, len(clean) // ATTACKED)][:ATTACKED]
    y = _in_batches(lambda x: classifier(x).argmax(1), some, device)
    made = {}
    for attack in HELD_OUT_ATTACKS:
        for eps in HELD_OUT_EPS:
            batches = zip(torch.split(some, BATCH), torch.split(y, BATCH), strict=True)
            x_adv = torch.cat(
                [make_attack(attack, classifier, x.to(device), of.to(device), eps).cpu() for x, of in batches]
            )
            turned = _in_batches(lambda x: classifier(x).argmax(1), x_adv, device) != y
            made[f"{attack.name} {format_eps(eps)}"] = x_adv[turned]
    return made


def platt(clean: Tensor, attacked: Tensor) -> tuple[float, float]:
    """Scale and shift that make sigmoid(scale * logit + shift) a probability, if half of the images are attacked.

    After Platt (1999), with his targets, which keep the scale finite where the two kinds do not overlap.
    """
    x = torch.cat([clean, attacked]).double()
    middle, spread = x.mean(), x.std()
    sizes = torch.tensor([len(clean), len(attacked)])
    weight, targets = (
        torch.repeat_interleave(each.double(), sizes)
        for each in (0.5 / sizes, torch.stack([1 / (sizes[0] + 2), (sizes[1] + 1) / (sizes[1] + 2)]))
    )
    found = torch.tensor([1.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([found], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        logits = found[0] * (x - middle) / spread + found[1]
        value = nn.functional.binary_cross_entropy_with_logits(logits, targets, weight)
        torch.autograd.backward(value)
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    scale = float(found[0].detach() / spread)
    return scale, float(found[1].detach()) - scale * float(middle)
