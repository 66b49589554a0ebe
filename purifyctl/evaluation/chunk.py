"""One chunk of photographs on one rung: attack it, put every defence before the classifier, keep the predictions."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from purifyctl.attacks import Best, Model, ascent, make_attack, within_budget
from purifyctl.attacks.autoattack import autoattack_flags
from purifyctl.config import AttackConfig
from purifyctl.evaluation.defences import NONE, Defence
from purifyctl.evaluation.ladder import Rung
from purifyctl.evaluation.masking import are_probabilities
from purifyctl.evaluation.records import SURROGATE, Outcome
from purifyctl.evaluation.subject import SAME, Subject
from purifyctl.metrics import quality
from purifyctl.photographs import to_pixels


@dataclass
class Chunk:
    """Decoded photographs with their labels, and the classifier's predictions before any attack."""

    number: int
    x: Tensor  # RGB NCHW float in [0, 1], whole grey levels
    y: Tensor  # [n] int64, the labels that count
    paths: list[str]
    subject: Subject = field(repr=False)
    unreadable: dict[str, str] = field(
        default_factory=dict
    )  # reasons, by path; the other fields lack these photographs
    found: dict[tuple[Rung, tuple[str, ...]], Tensor] = field(default_factory=dict, repr=False)  # see `_found`

    @cached_property
    def clean(self) -> dict[str, Tensor]:
        """Predictions on the unattacked photographs, by pipeline that can be attacked. Used by every rung."""
        subject = self.subject
        _seed(subject, "before any rung", self.number)
        return {name: _classify(subject, self.x, subject.defences[name])[0] for name in subject.pipelines}

    def only(self, paths: set[str]) -> "Chunk":
        """The chunk with only these photographs."""
        chosen = [i for i, path in enumerate(self.paths) if path in paths]
        if len(chosen) == len(self.paths):
            return self
        return replace(self, x=self.x[chosen], y=self.y[chosen], paths=[self.paths[i] for i in chosen])


@dataclass(frozen=True)
class Attacked:
    """A chunk under attack."""

    images: Tensor  # whole grey levels, within the budget
    floats: Tensor | None  # before rounding, where the attack does not work in grey levels itself
    attacked: Tensor  # [n] bool; the others were wrong already and are left clean
    flags: str | None = None  # warnings of the attack's library


def climb(rung: Rung, chunk: Chunk) -> list[Outcome]:
    """The rows of one chunk on one rung. The same seed gives the same rows, whatever was done before."""
    if rung.attack is None:
        return _clean(chunk)
    made = attack_chunk(rung, chunk)
    subject = chunk.subject
    faced = [subject.defences[rung.pipeline]] if rung.pipeline else list(subject.defences.values())
    rows: list[Outcome] = []
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
    attacked = torch.ones(len(chunk.x), dtype=torch.bool, device=chunk.x.device)
    if rung.pipeline and rung.pipeline not in subject.random:
        attacked = chunk.clean[rung.pipeline] == chunk.y
    searched = replace(rung, eps=1.0) if attack.record.family == "nearest boundary" else rung
    generator = torch.Generator(subject.device).manual_seed(_seed(subject, searched.key, chunk.number))
    images, floats = chunk.x.clone(), chunk.x.clone()
    warned: str | None = None
    in_floats = attack.record.in_floats
    if attacked.any():
        model = subject.attacked_model(rung)
        x, y = chunk.x[attacked], chunk.y[attacked]
        with autoattack_flags() as flags:
            if in_floats:
                images[attacked], floats[attacked] = _attack_in_floats(attack, model, x, y, rung.eps, generator)
            else:
                # Rounding would undo the small changes of these attacks. Their attacker knows the rounding, and
                # gets a model that rounds.
                images[attacked] = within_budget(_found(chunk, searched, model, x, y, generator), x, rung.eps)
        warned = "; ".join(dict.fromkeys(flags)) or None
    return Attacked(images, floats if in_floats else None, attacked, warned)


def _found(chunk: Chunk, rung: Rung, model: Model, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """What a library's attack finds. A search without a budget (eps 1) is made once, for all budgets."""
    assert rung.attack is not None
    key = (rung, tuple(chunk.paths))
    if key not in chunk.found:
        chunk.found[key] = make_attack(rung.attack, model, x, y, rung.eps, generator=generator)
    return chunk.found[key]


def _attack_in_floats(
    attack: AttackConfig, model: Model, x: Tensor, y: Tensor, eps: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Attack without rounding: the images in whole grey levels, and the floats they were rounded from.

    Each image keeps its best restart, separately for the two forms. An image that is misclassified in both forms is not
    attacked again.
    """
    once = replace(attack, restarts=1)
    best, best_floats = (Best(model, x, y, eot=attack.eot) for _ in range(2))
    for _ in range(attack.restarts):
        todo = torch.nonzero(torch.minimum(best.success, best_floats.success) < 1).flatten()
        if not len(todo):
            break
        floats = make_attack(once, model, x[todo], y[todo], eps, generator=generator, eight_bit=False)
        images = within_budget(floats, x[todo], eps)
        if attack.record.sees_rounding:  # images on which rounding undid the attack are attacked again, with rounding
            undone = _right(model, images, y[todo])
            if undone.any():
                images[undone] = make_attack(once, model, x[todo][undone], y[todo][undone], eps, generator=generator)
        if attack.restarts == 1:
            return images, floats
        best.offer(images, todo)
        best_floats.offer(floats, todo)
    return best.images, best_floats.images


@torch.no_grad()
def _right(model: Model, x: Tensor, y: Tensor) -> Tensor:
    return model(x).argmax(1) == y


def _seed(subject: Subject, what: str, number: int) -> int:
    """Seed torch for random defences. It depends on seed, rung and chunk alone, so an interruption changes nothing."""
    digest = hashlib.sha256(f"{subject.seed} {what} {number}".encode()).digest()
    seed = int.from_bytes(digest[:6], "big")
    torch.manual_seed(seed)
    return seed


@torch.no_grad()
def _classify(subject: Subject, x: Tensor, defence: Defence | None) -> tuple[Tensor, Tensor, Tensor]:
    """Predictions [n], logits [n, classes] and the images as classified. None: `x` unchanged, not rounded."""
    seen = defence.apply(x) if defence else x
    logits = subject.classifier(seen).float()
    return logits.argmax(1), logits, seen


def _records(chunk: Chunk, defence: Defence, made: Attacked) -> list[Outcome]:
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
    _add_scores(rows, made.images, defence)
    _add_quality(rows, seen, chunk.x, defence)
    return rows


def _classify_floats(subject: Subject, floats: Tensor, defence: Defence) -> Tensor:
    """Predictions on attacked images before they are rounded. The defence's own output is rounded in any case."""
    return _classify(subject, floats, defence if defence.net else None)[0]


def _rows(chunk: Chunk, name: str, prediction: Tensor, logits: Tensor) -> list[Outcome]:
    confidence = F.softmax(logits, 1)
    true = confidence.gather(1, chunk.y[:, None])[:, 0]
    columns = (chunk.paths, chunk.y.tolist(), prediction.tolist(), true.tolist(), confidence.amax(1).tolist())
    return [
        Outcome(path, name, true_index=label, prediction=index, true_confidence=of_true, top1_confidence=of_top1)
        for path, label, index, of_true, of_top1 in zip(*columns, strict=True)
    ]


@torch.no_grad()
def _add_scores(rows: Sequence[Outcome], x: Tensor, defence: Defence) -> None:
    if defence.score is None:
        return
    for row, score in zip(rows, defence.score(x).tolist(), strict=True):
        row.gate_score = score


def _add_quality(rows: Sequence[Outcome], seen: Tensor, x: Tensor, defence: Defence) -> None:
    if defence.net is None:
        return
    for row, image, reference in zip(rows, to_pixels(seen), to_pixels(x), strict=True):
        row.psnr, row.ssim = quality(image, reference)


def _clean(chunk: Chunk) -> list[Outcome]:
    """The clean rung: every defence on unattacked images, with what the masking checks need; and each surrogate."""
    subject = chunk.subject
    _seed(subject, "clean", chunk.number)
    rows: list[Outcome] = []
    for defence in subject.defences.values():
        prediction, logits, seen = _classify(subject, chunk.x, defence)
        again = _classify(subject, chunk.x, defence)[1]
        made = _rows(chunk, defence.name, prediction, logits)
        for row, differing in zip(made, ((logits - again).abs().amax(1) > SAME).tolist(), strict=True):
            row.differs = differing
        _note_checks(made, logits, subject.differentiable(defence.name), chunk)
        _add_scores(made, chunk.x, defence)
        _add_quality(made, seen, chunk.x, defence)
        rows += made
    for name, surrogate in subject.surrogates.items():
        with torch.no_grad():
            logits = surrogate(chunk.x).float()
        made = _rows(chunk, SURROGATE + name, logits.argmax(1), logits)
        _note_checks(made, logits, surrogate, chunk)
        rows += made
    return rows


def _note_checks(rows: Sequence[Outcome], logits: Tensor, model: Model | None, chunk: Chunk) -> None:
    """Record what masking checks need about the clean images. `model`: None if it has no gradients."""
    for row, probable in zip(rows, are_probabilities(logits.cpu().numpy()).tolist(), strict=True):
        row.probabilities = probable
    if model:
        for row, zero in zip(rows, _no_gradient(model, chunk.x, chunk.y), strict=True):
            row.zero_gradient = zero


def _no_gradient(model: Model, x: Tensor, y: Tensor) -> list[bool]:
    """Per image, whether the gradient of the cross-entropy is zero in every pixel."""
    flags: list[bool] = (ascent(model, x, y) == 0).flatten(1).all(1).tolist()
    return flags
