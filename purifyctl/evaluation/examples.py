"""Photographs to look at: attacks that the purifier undid, and others that it did not (the paper's Figures 9-11)."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from purifyctl.evaluation.chunk import Chunk, attack_chunk
from purifyctl.evaluation.defences import NONE, PIX2PIX, PURIFIER, to_pixels
from purifyctl.evaluation.ladder import Rung
from purifyctl.evaluation.records import read_tables
from purifyctl.evaluation.subject import Subject

EACH = 4  # examples of either outcome
PREFERRED = ("pgd", 10, 8 / 255)  # kind, steps, eps of the attack that is shown, or what is nearest to it


@dataclass(frozen=True)
class View:
    """One image, and what the classifier says of it."""

    image: NDArray[np.uint8]  # RGB HWC
    label: str
    confidence: float  # softmax of that class
    right: bool


@dataclass(frozen=True)
class Example:
    """One photograph whose attack succeeded."""

    clean: View
    attacked: View
    purified: View
    pix2pix: View | None


@dataclass(frozen=True)
class Examples:
    """Examples of one rung, and how many successful attacks there are of either kind."""

    rung: Rung
    restored: list[Example]
    lost: list[Example]
    restored_n: int
    lost_n: int


def find_examples(
    ladder: Sequence[Rung], records: Path, subject: Subject, places: dict[str, int], load: Callable[[Rung, int], Chunk]
) -> Examples | None:
    """Attack again, with the same randomness, the chunks that hold the first examples. None without a fitting rung.

    Parameters
    ----------
    places
        The chunk of each photograph, by path.
    load
        The photographs of a chunk, by its number, that climb a rung.
    """
    rungs = [rung for rung in ladder if rung.attack and not rung.pipeline]
    if not rungs:
        return None
    rung = min(rungs, key=_distance)
    clean, tables = read_tables(records, "clean")[NONE], read_tables(records, rung.key)
    before = dict(zip(clean["path"], clean["prediction"] == clean["true_index"], strict=True))
    restored: list[str] = []
    lost: list[str] = []
    bare, purified = tables[NONE], tables[PURIFIER]
    truth = bare["true_index"]
    for i, path in enumerate(bare["path"]):
        if before[path] and bare["prediction"][i] != truth[i]:
            (restored if purified["prediction"][i] == truth[i] else lost).append(path)
    wanted: dict[int, list[str]] = defaultdict(list)
    for path in (*restored[:EACH], *lost[:EACH]):
        wanted[places[path]].append(path)
    found: dict[str, Example] = {}
    for number, paths in sorted(wanted.items()):
        found |= _look(subject, rung, load(rung, number), paths)
    return Examples(
        rung,
        [found[path] for path in restored[:EACH]],
        [found[path] for path in lost[:EACH]],
        len(restored),
        len(lost),
    )


def _distance(rung: Rung) -> tuple[bool, bool, float]:
    """How far a rung is from the preferred one: threat model first, then attack, then budget."""
    kind, steps, eps = PREFERRED
    assert rung.attack is not None
    other_attack = (rung.attack.kind, rung.attack.effective_steps) != (kind, steps)
    return rung.threat_model != "gray_box", other_attack, abs(rung.eps - eps)


def _look(subject: Subject, rung: Rung, chunk: Chunk, paths: Sequence[str]) -> dict[str, Example]:
    x_adv = attack_chunk(rung, chunk).images
    views = {"clean": _views(subject, NONE, chunk, chunk.x)}
    views |= {
        name: _views(subject, name, chunk, x_adv) for name in (NONE, PURIFIER, PIX2PIX) if name in subject.defences
    }
    found = {}
    for path in paths:
        i = chunk.paths.index(path)
        pix2pix = views[PIX2PIX][i] if PIX2PIX in views else None
        found[path] = Example(views["clean"][i], views[NONE][i], views[PURIFIER][i], pix2pix)
    return found


@torch.no_grad()
def _views(subject: Subject, defence: str, chunk: Chunk, images: torch.Tensor) -> list[View]:
    seen = subject.defences[defence].apply(images)
    confidence, index = subject.classifier(seen).float().softmax(1).max(1)
    labels = subject.classifier.labels
    columns = (to_pixels(seen), index.tolist(), confidence.tolist(), (index == chunk.y).tolist())
    return [View(image, labels.name(k), sure, right) for image, k, sure, right in zip(*columns, strict=True)]
