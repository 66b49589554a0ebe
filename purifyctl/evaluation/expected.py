"""How long an evaluation will take: what each rung costs, guessed before it is climbed, and measured from then on."""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from purifyctl import console
from purifyctl.attacks import ascent
from purifyctl.evaluation.chunk import Chunk
from purifyctl.evaluation.ladder import Rung

PROBED = 4  # photographs that a gradient is timed on, at most


class Expected:
    """The seconds that rungs take for each image.

    Parameters
    ----------
    measured
        Seconds and images of each rung that earlier calls have climbed, by key.
    """

    def __init__(self, ladder: Sequence[Rung], measured: Mapping[str, tuple[float, int]]) -> None:
        self._ladder = {rung.key: rung for rung in ladder}
        self._seconds: dict[str, float] = defaultdict(float)
        self._images: dict[str, int] = defaultdict(int)
        for key, (seconds, images) in measured.items():
            self._seconds[key], self._images[key] = seconds, images
        self._gradient: dict[Any, float] = {}  # seconds per image, by what is attacked
        searched: set[Any] = set()
        self._free: set[str] = set()  # rungs that use what the rung of another budget has found
        for rung in ladder:
            if rung.attack and rung.attack.record.family == "nearest boundary":
                again = (rung.attack, _attacked(rung))
                self._free |= {rung.key} if again in searched else set()
                searched.add(again)

    def time_gradients(self, chunk: Chunk) -> None:
        """Time one gradient of each model that is attacked."""
        x, y = chunk.x[:PROBED], chunk.y[:PROBED]
        for rung in self._ladder.values():
            if rung.attack is None or _attacked(rung) in self._gradient:
                continue
            model = chunk.subject.attacked_model(rung)
            seconds = []
            for _ in range(2):  # the first call also prepares
                started = time.monotonic()
                ascent(model, x, y)
                seconds.append(time.monotonic() - started)
            self._gradient[_attacked(rung)] = seconds[-1] / len(x)

    def note(self, rung: Rung, images: int, seconds: float) -> None:
        """A rung was climbed with this number of images."""
        self._images[rung.key] += images
        self._seconds[rung.key] += seconds

    def seconds(self, todo: Mapping[tuple[str, int], int]) -> float:
        """How long it takes to climb rungs, given the number of images by rung and chunk."""
        each = {key: self._per_image(key) for key in {key for key, _ in todo}}
        return sum(n * each[key] for (key, _), n in todo.items())

    def _per_image(self, key: str) -> float:
        if self._images[key]:
            return self._seconds[key] / self._images[key]
        rung = self._ladder[key]
        like = [
            one for one in self._ladder.values() if self._images[one.key] and bool(one.pipeline) == bool(rung.pipeline)
        ]
        guessed = sum(self._guess(one) * self._images[one.key] for one in like)
        right = sum(self._seconds[one.key] for one in like) / guessed if guessed else 1.0
        return self._guess(rung) * right

    def _guess(self, rung: Rung) -> float:
        """Seconds per image, from the gradients that an attack computes; and the defences that face its images."""
        if not self._gradient:
            return 0.0
        if rung.attack is None or rung.key in self._free:
            return max(self._gradient.values())
        attack = rung.attack
        gradients = attack.record.cost * (attack.effective_steps or 1) * attack.restarts * attack.eot
        return (gradients + 1) * self._gradient[_attacked(rung)]


def _attacked(rung: Rung) -> tuple[str, str, bool]:
    return rung.surrogate, rung.pipeline, rung.bpda


def say_how_long(expected: Expected, todo: Mapping[tuple[str, int], int], ladder: Sequence[Rung]) -> None:
    """Say how long the evaluation will take, and which share of it checks take that nobody asked for by name."""
    total = expected.seconds(todo)
    checks = {rung.key: rung for rung in ladder if rung.bpda}
    of_checks = expected.seconds({entry: n for entry, n in todo.items() if entry[0] in checks})
    text = f"It will take about {console.duration(total)}"
    if of_checks:
        names = ", ".join(dict.fromkeys(rung.name for rung in checks.values()))
        text += f", {console.duration(of_checks)} of it for a masking check that comes with adaptive attacks: {names}"
    console.note(text + ".")
