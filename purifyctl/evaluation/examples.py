"""Photographs to look at: attacks that the purifier undid, and others that it did not (the paper's Figures 9-11)."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from purifyctl.evaluation.chunk import Chunk, attack_chunk
from purifyctl.evaluation.defences import NONE, PIX2PIX, PURIFIER
from purifyctl.evaluation.ladder import Rung
from purifyctl.evaluation.records import Table, Tables, of_paths
from purifyctl.evaluation.subject import Subject
from purifyctl.photographs import to_pixels
from purifyctl.strip import Line, Picture

EACH = 4  # examples of either outcome
PREFERRED = ("pgd", 10, 8 / 255)  # kind, steps and eps of the attack that is shown, or of the nearest one


@dataclass(frozen=True)
class Examples:
    """Examples of one rung, and the number of successful attacks that the purifier undid or did not undo."""

    rung: Rung
    tables: Mapping[str, Table]  # the rung's rows, by defence
    clean: Table  # the rows of the same photographs when clean
    restored: list[Line]
    lost: list[Line]
    restored_n: int
    lost_n: int


def find_examples(
    ladder: Sequence[Rung],
    results: Tables,
    subject: Subject,
    places: dict[str, int],
    load: Callable[[Rung, int], Chunk],
) -> Examples | None:
    """Attack the chunks that hold the first examples again, with the same random numbers. None if no rung fits.

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
    tables = results[rung.key]
    bare, purified = tables[NONE], tables[PURIFIER]
    clean = of_paths(results["clean"][NONE], bare["path"])
    truth = bare["true_index"]
    fooled = (clean["prediction"] == truth) & (bare["prediction"] != truth)
    undone = purified["prediction"] == truth
    restored, lost = list(bare["path"][fooled & undone]), list(bare["path"][fooled & ~undone])
    chosen: dict[int, list[str]] = defaultdict(list)
    for path in (*restored[:EACH], *lost[:EACH]):
        chosen[places[path]].append(path)
    found: dict[str, Line] = {}
    for number, paths in sorted(chosen.items()):
        found |= _lines(subject, rung, load(rung, number), paths)
    return Examples(
        rung,
        tables,
        clean,
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


def _lines(subject: Subject, rung: Rung, chunk: Chunk, paths: Sequence[str]) -> dict[str, Line]:
    x_adv = attack_chunk(rung, chunk).images
    views = {"clean": _views(subject, NONE, chunk, chunk.x)}
    views |= {
        name: _views(subject, name, chunk, x_adv) for name in (NONE, PURIFIER, PIX2PIX) if name in subject.defences
    }
    found = {}
    for path in paths:
        i = chunk.paths.index(path)
        pix2pix = views[PIX2PIX][i] if PIX2PIX in views else None
        found[path] = Line(views["clean"][i], views[NONE][i], views[PURIFIER][i], pix2pix)
    return found


@torch.no_grad()
def _views(subject: Subject, defence: str, chunk: Chunk, images: torch.Tensor) -> list[Picture]:
    seen = subject.defences[defence].apply(images)
    confidence, index = subject.classifier(seen).float().softmax(1).max(1)
    labels = subject.classifier.labels
    columns = (to_pixels(seen), index.tolist(), confidence.tolist(), (index == chunk.y).tolist())
    return [Picture(image, labels.name(k), sure, right) for image, k, sure, right in zip(*columns, strict=True)]
