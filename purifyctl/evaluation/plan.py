"""Which photographs are evaluated, in which order, with which labels."""

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from purifyctl.errors import ConfigError
from purifyctl.evaluation.ladder import Rung
from purifyctl.images.sink import printable
from purifyctl.sources import ImageFile
from purifyctl.truth import Truth


@dataclass(frozen=True)
class Photograph:
    """One photograph of the plan. `true_index` is None where the label is the classifier's own prediction."""

    image: ImageFile
    true_index: int | None


@dataclass(frozen=True)
class Plan:
    """Photographs in chunks. Only the first `expensive_limit` photographs climb expensive rungs."""

    photographs: list[Photograph]
    chunk_size: int
    expensive_limit: int
    unlabelled: int  # photographs left out because their true label is not known

    @property
    def chunks(self) -> list[list[Photograph]]:
        return [self.photographs[i : i + self.chunk_size] for i in range(0, len(self.photographs), self.chunk_size)]

    def climbing(self, rung: Rung, chunk: int) -> int:
        """How many photographs of a chunk climb a rung: the first ones."""
        start = chunk * self.chunk_size
        end = min(len(self.photographs), start + self.chunk_size)
        if rung.expensive:
            end = min(end, self.expensive_limit)
        return max(0, end - start)

    @property
    def sha256(self) -> str:
        """The SHA-256 of the photographs' names, sizes in bytes and labels, in order."""
        lines = (f"{printable(p.image.path)} {p.image.size} {p.true_index}" for p in self.photographs)
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def make_plan(
    images: Sequence[ImageFile],
    truth: Truth | None,
    *,
    limit: int | None,
    expensive_limit: int,
    chunk_size: int,
    seed: int,
) -> Plan:
    """Order photographs so that any first part of them is spread evenly over the classes, and keep `limit`.

    `seed` decides which classes come first, and which photographs
    of each class.

    Parameters
    ----------
    truth
        Knows true labels. None: they are predicted, and folders stand for classes.

    Raises
    ------
    ConfigError
        No photograph has a true label.
    """
    groups: dict[object, list[Photograph]] = defaultdict(list)
    for image in images:
        if truth is None:
            groups[image.path.parent].append(Photograph(image, None))
        elif (index := truth(image.path)) is not None:
            groups[index].append(Photograph(image, index))
    kept = sum(map(len, groups.values()))
    if not kept:
        raise ConfigError(
            f"No photograph has a true label (from {truth and truth.where}): folders are named after classes by name, "
            "WordNet id or index.",
            hint="--truth FILE.csv gives true labels; --truth predicted takes the classifier's own predictions",
        )
    # sorted by hash: the order says nothing about a class or a photograph
    ranked = [
        (rank, _hash(f"{seed} {name}"), photograph)
        for name, group in groups.items()
        for rank, photograph in enumerate(sorted(group, key=lambda p: _hash(f"{seed} {printable(p.image.path)}")))
    ]
    photographs = [photograph for _, _, photograph in sorted(ranked, key=lambda entry: entry[:2])]
    return Plan(photographs[:limit], chunk_size, expensive_limit, unlabelled=len(images) - kept)
