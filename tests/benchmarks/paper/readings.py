"""What was the paper's attack? Under FGSM at "0.3", 24.6 of 54.8 % stay right: 45 %. Which reading leaves as many?

Each reading attacks the same photographs, and the purifiers are measured where about as many survive as in the paper.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import interpolate

from purifyctl import console
from purifyctl.attacks.gradient import fgsm, pgd
from purifyctl.files import write_json
from purifyctl.metrics import Share, percent
from purifyctl.photographs import to_pixels, to_tensor
from tests.benchmarks.paper.figures import figures_of
from tests.benchmarks.paper.measure import CLEAN, Ground, Outcome
from tests.benchmarks.paper.plan import NONE

READINGS = "readings.json"
PUBLISHED = 24.64 / 54.83  # the share of right photographs that survive
NEAR = (PUBLISHED - 0.1, PUBLISHED + 0.1)
LABRADOR = 208  # ImageNet's class; TensorFlow's FGSM tutorial, which attacks a MobileNetV2, has it as its fixed label
Make = Callable[[], Tensor]  # the attacked photographs, RGB NCHW float in [0, 1]


def readings_of(ground: Ground, surrogates: Mapping[str, Ground]) -> Iterator[tuple[str, Make]]:
    """Readings of "FGSM with eps 0.3" for one classifier. `surrogates`: other classifiers on the same squares."""
    model = ground.classifier

    def made(levels: float, how: Callable[[Tensor], Tensor] = _whole, away_from: int | None = None) -> Make:
        def make(x: Tensor, y: Tensor) -> Tensor:
            y = y if away_from is None else torch.full_like(y, away_from)
            return how(fgsm(model, x, y, levels / 255))

        return lambda: ground.in_batches(make)

    for levels in (1, 2, 4, 8, 17, 38, 76):
        yield f"FGSM {levels}/255", made(levels)
    for part in (0.02, 0.05, 0.1, 0.2, 0.3, 0.5):
        yield f"FGSM {part:g}/255, in floats, never saved", made(part, lambda x: x)
    yield "FGSM 0.3/255, saved in 8 bits", made(0.3)
    yield (
        "PGD-10 0.3/255, in floats, never saved",
        lambda: ground.in_batches(
            lambda x, y: pgd(model, x, y, 0.3 / 255, steps=10, generator=torch.Generator().manual_seed(0))
        ),
    )
    for levels in (17, 38):
        for quality in (95, 75):
            yield (
                f"FGSM {levels}/255, saved as JPEG of quality {quality}",
                made(levels, lambda x, q=quality: _jpeg(x, q)),
            )
        yield f"FGSM {levels}/255, saved with 7/8 of the side, and enlarged again", made(levels, _shrunk)
        yield f"FGSM {levels}/255, made on 7/8 of the side, and enlarged", _made_small(ground, levels)
        fixed = LABRADOR % model(ground.x[:1]).shape[1]
        yield f"FGSM {levels}/255, away from class {fixed}, whatever the photograph shows", made(levels, _whole, fixed)
        yield f"random signs of {levels}/255, no attack", _signs(ground, levels)
        yield f"FGSM {levels}/255 of softmax in floats, clipped at 1e-7 as by Keras", _made_by_keras(ground, levels)
        for name, other in surrogates.items():
            yield f"FGSM {levels}/255, made on {name}", _made_on(other, ground, levels)


def readings_of_other(ground: Ground) -> Iterator[tuple[str, Make]]:
    """The plain readings, for a classifier with another training than ours."""
    model = ground.classifier
    for levels in (17, 38):
        yield f"FGSM {levels}/255", lambda n=levels: ground.in_batches(lambda x, y: _whole(fgsm(model, x, y, n / 255)))
    yield (
        "PGD-10 0.3/255, in floats, never saved",
        lambda: ground.in_batches(
            lambda x, y: pgd(model, x, y, 0.3 / 255, steps=10, generator=torch.Generator().manual_seed(0))
        ),
    )


def measure_readings(
    file: Path, ground: Ground, others: Sequence[Ground], purifiers: Mapping[str, Callable[[], nn.Module]]
) -> list[dict[str, Any]]:
    """Every reading, as `file` holds them. What it holds already is not measured again."""
    found: list[dict[str, Any]] = json.loads(file.read_text()) if file.exists() else []
    known = {(entry["classifier"], entry["reading"]) for entry in found}
    surrogates = {other.classifier.name: other for other in others}
    plans = [(ground, readings_of(ground, surrogates)), *((other, readings_of_other(other)) for other in others)]
    for subject, readings in plans:
        clean = subject.outcome(CLEAN, NONE, None, lambda where=subject: where.clean)
        for name, make in readings:
            if (subject.classifier.name, name) in known:
                continue
            x_adv = make()
            entry = _entry(subject, name, clean, subject.classify(x_adv, None))
            if subject is ground and NEAR[0] <= entry["survives"] <= NEAR[1]:
                entry["purifiers"] = {
                    purifier: _purified(subject, clean, x_adv, purifier, load()) for purifier, load in purifiers.items()
                }
            found.append(entry)
            write_json(file, found)
            console.note(f"{subject.classifier.name}: {name}: {entry['survives']:.1%} survive.")
    return found


def _entry(ground: Ground, name: str, clean: Outcome, attacked: Outcome) -> dict[str, Any]:
    right = clean.prediction == ground.truth
    hits = int((right & (attacked.prediction == ground.truth)).sum())
    return {
        "classifier": ground.classifier.name,
        "reading": name,
        "right": int(right.sum()),
        "survivors": hits,
        "survives": hits / max(1, int(right.sum())),
        **figures_of(attacked, clean, clean, ground.truth),
    }


def _purified(ground: Ground, clean: Outcome, x_adv: Tensor, name: str, net: nn.Module) -> dict[str, Any]:
    when_clean = ground.outcome(CLEAN, name, net, lambda: ground.clean)
    return figures_of(ground.classify(x_adv, net), clean, when_clean, ground.truth)


def readings_table(readings: Sequence[Mapping[str, Any]]) -> str:
    """The readings as Markdown: how many survive each, and what purifiers recover where about 45 % do."""
    lines = [
        "**Readings of the paper's attack**",
        "",
        "The paper: 44.9 % of the right photographs survive, 46.7 % of the predictions change, confidence 37.3 %.",
        "",
        "| classifier | reading | right ones that survive | predictions that change | confidence, true / predicted |",
        "|---|---|---|---|---|",
    ]
    for entry in readings:
        near = "**" if NEAR[0] <= entry["survives"] <= NEAR[1] else ""
        cells = (
            entry["classifier"],
            f"{near}{entry['reading']}{near}",
            str(Share(entry["survivors"], entry["right"])),
            str(Share(**entry["misclassified"])),
            f"{percent(entry['true_confidence'])} / {percent(entry['top1_confidence'])}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    rows = [(entry["reading"], name, cell) for entry in readings for name, cell in entry.get("purifiers", {}).items()]
    if rows:
        lines += [
            "",
            "Where about 45 % survive, through the purifiers:",
            "",
            "| reading | purifier | accuracy | recovery |",
        ]
        lines.append("|---|---|---|---|")
        for reading, name, cell in rows:
            value, low, high = cell["recovery"] or (0.0, 0.0, 0.0)
            lines.append(f"| {reading} | {name} | {Share(**cell['top1'])} | {value:.2f} [{low:.2f}, {high:.2f}] |")
    return "\n".join(lines)


def _whole(x: Tensor) -> Tensor:
    return torch.round(x * 255) / 255


def _jpeg(x: Tensor, quality: int) -> Tensor:
    """Saved as JPEG, and read again."""
    read = []
    for image in to_pixels(x):
        file = BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality)
        read.append(np.asarray(Image.open(file).convert("RGB")))
    return to_tensor(np.stack(read))


def _resized(x: Tensor, side: int) -> Tensor:
    return interpolate(x, (side, side), mode="bilinear", align_corners=False, antialias=True).clamp(0, 1)


def _shrunk(x: Tensor) -> Tensor:
    return _whole(_resized(_whole(_resized(x, x.shape[-1] * 7 // 8)), x.shape[-1]))


def _made_small(ground: Ground, levels: int) -> Make:
    """Attacked at the size that the classifier takes, all of it; the file is enlarged, and cropped in use."""

    def make(x: Tensor, y: Tensor) -> Tensor:
        small = _whole(_resized(x, x.shape[-1] * 7 // 8))
        return _whole(_resized(_whole(fgsm(ground.classifier.logits, small, y, levels / 255)), x.shape[-1]))

    return lambda: ground.in_batches(make)


def _signs(ground: Ground, levels: int) -> Make:
    def make(x: Tensor, _: Tensor) -> Tensor:
        signs = torch.randint(0, 2, x.shape, generator=generator) * 2 - 1
        return (x + signs * levels / 255).clamp(0, 1)

    generator = torch.Generator().manual_seed(0)
    return lambda: ground.in_batches(make)


def _made_by_keras(ground: Ground, levels: int) -> Make:
    """Keras's cross-entropy takes probabilities and clips them: a prediction that is sure enough has no gradient."""

    def model(x: Tensor) -> Tensor:
        return ground.classifier(x).softmax(1).clamp(1e-7, 1 - 1e-7).log()

    def make(x: Tensor, y: Tensor) -> Tensor:
        x = x.detach().requires_grad_(True)
        loss = -model(x).gather(1, y[:, None]).sum()
        return _whole((x + levels / 255 * torch.autograd.grad(loss, x)[0].sign()).clamp(0, 1).detach())

    return lambda: ground.in_batches(make)


def _made_on(other: Ground, ground: Ground, levels: int) -> Make:
    return lambda: ground.in_batches(lambda x, y: _whole(fgsm(other.classifier, x, y, levels / 255)))
