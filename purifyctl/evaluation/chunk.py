"""One chunk of photographs on one rung: attack it, put every defence before the classifier, note what it says."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from purifyctl.attacks import Model, make_attack
from purifyctl.attacks.libraries import autoattack_flags
from purifyctl.config import GRADIENT_ATTACKS, UNBOUNDED_ATTACKS, AttackConfig
from purifyctl.evaluation.defences import NONE, Defence, to_pixels
from purifyctl.evaluation.ladder import Rung
from purifyctl.evaluation.masking import are_probabilities
from purifyctl.evaluation.records import SURROGATE, Record
from purifyctl.evaluation.subject import SAME, Subject
from purifyctl.metrics import quality


@dataclass
class Chunk:
    """Decoded photographs with their labels, and what the classifier says of them before any attack."""

    number: int
    x: Tensor  # RGB NCHW float in [0, 1], whole grey levels
    y: Tensor  # [n] int64, the labels that count
    paths: list[str]
    subject: Subject = field(repr=False)
    found: dict[tuple[Rung, tuple[str, ...]], Tensor] = field(default_factory=dict, repr=False)  # see `_found`

    @cached_property
    def clean(self) -> dict[str, Tensor]:
        """Predictions on the unattacked photographs, by defence. Made once, used by every rung."""
        _seed(self.subject, "before any rung", self.number)
        return {name: _classify(self.subject, self.x, defence)[0] for name, defence in self.subject.defences.items()}

    def only(self, paths: set[str]) -> "Chunk":
        """Some of the photographs alone."""
        chosen = [i for i, path in enumerate(self.paths) if path in paths]
        if len(chosen) == len(self.paths):
            return self
        return Chunk(
            self.number, self.x[chosen], self.y[chosen], [self.paths[i] for i in chosen], self.subject, self.found
        )


@dataclass(frozen=True)
class Attacked:
    """A chunk under attack."""

    images: Tensor  # whole grey levels, within the budget
    floats: Tensor | None  # before rounding, where the attack does not work in grey levels itself
    attacked: Tensor  # [n] bool; the others were wrong already and are left clean
    flags: str | None = None  # what the attack's library warned of


def climb(rung: Rung, chunk: Chunk) -> list[Record]:
    """The rows of one chunk on one rung. The same for the same seed, whatever was done before."""
    if rung.attack is None:
        return _clean(chunk)
    made = attack_chunk(rung, chunk)
    subject = chunk.subject
    faced = [subject.defences[rung.pipeline]] if rung.pipeline else list(subject.defences.values())
    rows: list[Record] = []
    for defence in faced:
        rows += _records(chunk, defence, made)
    return rows


def attack_chunk(rung: Rung, chunk: Chunk) -> Attacked:
    """Make a rung's examples: once, for all the defences that face them.

    The attack moves away from the labels that count. Where the whole pipeline is attacked (black-box, adaptive), images
    that the pipeline gets wrong without an attack stay clean and count as wrong.
    """
    subject, attack = chunk.subject, rung.attack
    assert attack is not None
    wanted = torch.ones(len(chunk.x), dtype=torch.bool, device=chunk.x.device)
    if rung.pipeline and rung.pipeline not in subject.random:
        wanted = chunk.clean[rung.pipeline] == chunk.y
    generator = torch.Generator(subject.device).manual_seed(_seed(subject, rung.key, chunk.number))
    images, floats = chunk.x.clone(), chunk.x.clone()
    warned: str | None = None
    in_floats = attack.kind in (*GRADIENT_ATTACKS, "square", "autoattack")
    if wanted.any():
        model = subject.attacked_model(rung)
        x, y = chunk.x[wanted], chunk.y[wanted]
        with autoattack_flags() as flags:
            if in_floats:
                images[wanted], floats[wanted] = _attack_in_floats(attack, model, x, y, rung.eps, generator)
            else:
                # These attacks look for the nearest boundary, which rounding alone would undo. The attacker knows that
                # images are 8 bits deep and is given a model that rounds.
                images[wanted] = within_budget(_found(chunk, rung, model, x, y, generator), x, rung.eps)
        warned = "; ".join(dict.fromkeys(flags)) or None
    return Attacked(images, floats if in_floats else None, wanted, warned)


def _found(chunk: Chunk, rung: Rung, model: Model, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """What a library's attack finds. Those that search without a budget (and draw nothing) search once for them all."""
    assert rung.attack is not None
    if rung.attack.kind not in UNBOUNDED_ATTACKS:
        return make_attack(rung.attack, model, x, y, rung.eps, generator=generator)
    key = (replace(rung, eps=1.0), tuple(chunk.paths))
    if key not in chunk.found:
        chunk.found[key] = make_attack(rung.attack, model, x, y, 1.0, generator=generator)
    return chunk.found[key]


def _attack_in_floats(
    attack: AttackConfig, model: Model, x: Tensor, y: Tensor, eps: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Attack without rounding: the images in whole grey levels, and the floats they were rounded from.

    Of several restarts each image keeps, in either form by itself, the one that succeeds, or else the one with the
    highest loss; an image that has fallen in both forms is not attacked again.
    """
    once = replace(attack, restarts=1)
    images, floats = x.clone(), x.clone()
    fallen, float_fallen = (torch.zeros(len(x), dtype=torch.bool, device=x.device) for _ in range(2))
    loss, float_loss = (torch.full((len(x),), -torch.inf, device=x.device) for _ in range(2))
    for _ in range(attack.restarts):
        todo = torch.nonzero(~(fallen & float_fallen)).flatten()
        if not len(todo):
            break
        found = make_attack(once, model, x[todo], y[todo], eps, generator=generator, eight_bit=False)
        rounded = within_budget(found, x[todo], eps)
        if attack.kind == "autoattack":  # what rounding has undone is attacked again by one who knows of the rounding
            undone = _right(model, rounded, y[todo])
            if undone.any():
                again = make_attack(once, model, x[todo][undone], y[todo][undone], eps, generator=generator)
                rounded[undone] = within_budget(again, x[todo][undone], eps)
        _keep_better(model, rounded, y, todo, images, fallen, loss)
        _keep_better(model, found, y, todo, floats, float_fallen, float_loss)
    return images, floats


@torch.no_grad()
def _keep_better(
    model: Model, candidates: Tensor, y: Tensor, todo: Tensor, best: Tensor, fallen: Tensor, loss: Tensor
) -> None:
    """Put those candidates for the images `todo` into `best` that succeed where none has, or have a higher loss."""
    logits = model(candidates).float()
    success, raised = logits.argmax(1) != y[todo], F.cross_entropy(logits, y[todo], reduction="none")
    better = (success & ~fallen[todo]) | ((success == fallen[todo]) & (raised > loss[todo]))
    chosen = todo[better]
    best[chosen], loss[chosen] = candidates[better], raised[better]
    fallen[todo] |= success


@torch.no_grad()
def _right(model: Model, x: Tensor, y: Tensor) -> Tensor:
    return model(x).argmax(1) == y


def within_budget(x_adv: Tensor, x: Tensor, eps: float) -> Tensor:
    """Round to whole grey levels without leaving the budget.

    Parameters
    ----------
    x
        The clean images, in whole grey levels.
    eps
        L-infinity in [0, 1]. Of a budget such as 2.5/255 an 8-bit image can use 2.
    """
    levels = int(eps * 255 + 1e-6)
    change = torch.clamp(torch.round((x_adv - x) * 255), -levels, levels)
    return torch.clamp(torch.round(x * 255 + change), 0, 255) / 255


def _seed(subject: Subject, what: str, number: int) -> int:
    """Seed torch, for defences that are random, by seed, rung and chunk alone: an interruption changes nothing."""
    digest = hashlib.sha256(f"{subject.seed} {what} {number}".encode()).digest()
    seed = int.from_bytes(digest[:6], "big")
    torch.manual_seed(seed)
    return seed


@torch.no_grad()
def _classify(subject: Subject, x: Tensor, defence: Defence | None) -> tuple[Tensor, Tensor, Tensor]:
    """Predictions [n], logits [n, classes] and the images as classified. None: `x` as it is, unrounded."""
    seen = defence.apply(x) if defence else x
    logits = subject.classifier(seen).float()
    return logits.argmax(1), logits, seen


def _records(chunk: Chunk, defence: Defence, made: Attacked) -> list[Record]:
    """The rows of one defence that faces attacked images."""
    prediction, logits, seen = _classify(chunk.subject, made.images, defence)
    rows = _rows(chunk, defence.name, prediction, logits)
    if made.floats is not None and (defence.name == NONE or defence.net):
        before = _classify_floats(chunk.subject, made.floats, defence)
        for row, index in zip(rows, before.tolist(), strict=True):
            row.float_prediction = index
    change = (made.images - chunk.x).abs().amax((1, 2, 3))
    for row, attacked, delta in zip(rows, made.attacked.tolist(), change.tolist(), strict=True):
        row.attacked, row.max_delta, row.flags = attacked, delta, made.flags
    _add_quality(rows, seen, chunk.x, defence)
    return rows


def _classify_floats(subject: Subject, floats: Tensor, defence: Defence) -> Tensor:
    """Predictions on attacked images that never were in a file. The defence's own output is rounded all the same."""
    return _classify(subject, floats, defence if defence.net else None)[0]


def _rows(chunk: Chunk, name: str, prediction: Tensor, logits: Tensor) -> list[Record]:
    confidence = F.softmax(logits, 1)
    true = confidence.gather(1, chunk.y[:, None])[:, 0]
    columns = (chunk.paths, chunk.y.tolist(), prediction.tolist(), true.tolist(), confidence.amax(1).tolist())
    return [
        Record(path, name, true_index=label, prediction=index, true_confidence=of_true, top1_confidence=of_top1)
        for path, label, index, of_true, of_top1 in zip(*columns, strict=True)
    ]


def _add_quality(rows: Sequence[Record], seen: Tensor, x: Tensor, defence: Defence) -> None:
    if defence.net is None:
        return
    for row, image, reference in zip(rows, to_pixels(seen), to_pixels(x), strict=True):
        row.psnr, row.ssim = quality(image, reference)


def _clean(chunk: Chunk) -> list[Record]:
    """The clean rung: every defence on unattacked images, with what the masking checks need; and each surrogate."""
    subject = chunk.subject
    _seed(subject, "clean", chunk.number)
    rows: list[Record] = []
    for defence in subject.defences.values():
        prediction, logits, seen = _classify(subject, chunk.x, defence)
        again = _classify(subject, chunk.x, defence)[1]
        differs = (logits - again).abs().amax(1) > SAME
        probabilities = are_probabilities(logits.cpu().numpy().astype(np.float32))
        made = _rows(chunk, defence.name, prediction, logits)
        for row, differing, probable in zip(made, differs.tolist(), probabilities.tolist(), strict=True):
            row.differs, row.probabilities = differing, probable
        if model := subject.differentiable(defence.name):
            for row, zero in zip(made, _no_gradient(model, chunk.x, chunk.y).tolist(), strict=True):
                row.zero_gradient = zero
        _add_quality(made, seen, chunk.x, defence)
        rows += made
    for name, surrogate in subject.surrogates.items():
        rows += _surrogate_rows(chunk, SURROGATE + name, surrogate)
    return rows


def _surrogate_rows(chunk: Chunk, name: str, surrogate: Model) -> list[Record]:
    with torch.no_grad():
        logits = surrogate(chunk.x).float()
    rows = _rows(chunk, name, logits.argmax(1), logits)
    for row, probable in zip(rows, are_probabilities(logits.cpu().numpy()).tolist(), strict=True):
        row.probabilities = probable
    for row, zero in zip(rows, _no_gradient(surrogate, chunk.x, chunk.y).tolist(), strict=True):
        row.zero_gradient = zero
    return rows


def _no_gradient(model: Model, x: Tensor, y: Tensor) -> Tensor:
    """Per image, whether the gradient of the cross-entropy is zero in every pixel. [n] bool."""
    x = x.detach().requires_grad_(True)
    with torch.enable_grad():
        loss = F.cross_entropy(model(x).float(), y, reduction="sum")
    return (torch.autograd.grad(loss, x)[0] == 0).flatten(1).all(1)
