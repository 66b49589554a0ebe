"""The loop over chunks and rungs: each chunk climbs the rungs that it has no rows for. Rows are committed and timed."""

import json
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from purifyctl.config.folders import EVALUATION_RECORDS
from purifyctl.errors import PurifyctlError
from purifyctl.evaluation.chunk import Chunk, climb
from purifyctl.evaluation.expected import Expected, say_how_long
from purifyctl.evaluation.ladder import Rung
from purifyctl.evaluation.plan import Photograph, Plan
from purifyctl.evaluation.records import Outcome, part_file, unreadable, write_records
from purifyctl.evaluation.subject import Subject
from purifyctl.images import Decoder
from purifyctl.images.sink import printable
from purifyctl.interrupt import drain_on_interrupt
from purifyctl.photographs import WholeDecoder, read_some, to_tensor
from purifyctl.waiting import progress

TIMES = "times.jsonl"  # seconds of each chunk on each rung


class Loop:
    """Sends every chunk of a plan up the ladder.

    Attributes
    ----------
    places
        The number of each photograph's chunk, by path.
    """

    def __init__(
        self, plan: Plan, ladder: Sequence[Rung], subject: Subject, out: Path, decoder: Decoder | WholeDecoder
    ) -> None:
        self._plan, self._ladder, self._subject, self._decoder = plan, ladder, subject, decoder
        self._records, self._times = out / EVALUATION_RECORDS, out / TIMES
        self._chunks = plan.chunks
        self.places = {printable(p.image.path): n for n, chunk in enumerate(self._chunks) for p in chunk}

    def run(self) -> tuple[int, int]:
        """Climb the rungs that have no rows yet. Returns how many images x rungs are done, and how many there are."""
        counts = {
            (rung.key, number): self._plan.climbing(rung, number)
            for rung in self._ladder
            for number in range(len(self._chunks))
        }
        done = sum(n for (key, number), n in counts.items() if part_file(self._records, key, number).exists())
        todo = {
            (key, number): n
            for (key, number), n in counts.items()
            if n and not part_file(self._records, key, number).exists()
        }
        expected, began = Expected(self._ladder, measured(self._times)), False
        with (
            progress(sum(counts.values()), "evaluating", done=done, rated=False) as bar,
            drain_on_interrupt("finishing and keeping this chunk's rung.") as stop,
        ):
            for number in range(len(self._chunks)):
                missing = [rung for rung in self._ladder if (rung.key, number) in todo]
                chunk = self.load(number) if missing and not stop.is_set() else None
                if chunk is not None and chunk.paths and not began:
                    bar.show("timing one gradient of each model")
                    expected.time_gradients(chunk)
                    say_how_long(expected, todo, self._ladder)
                    began = True
                for rung in missing:
                    if chunk is None or stop.is_set():
                        return bar.done, bar.total
                    bar.show(_doing(rung), left_s=expected.seconds(todo))
                    expected.note(rung, *self._climb(rung, chunk))
                    n = todo.pop((rung.key, number))
                    bar.advance(n, text=_doing(rung), left_s=expected.seconds(todo))
        return bar.done, bar.total

    def load(self, number: int) -> Chunk:
        """Decode a chunk. Photographs that cannot be read are missing from it."""
        planned = self._chunks[number]
        read = read_some([photograph.image for photograph in planned], self._decoder)
        good = [planned[position] for position in read.positions]
        x = to_tensor(read.images).to(self._subject.device)
        y = self._labels(good, x)
        paths = [printable(photograph.image.path) for photograph in good]
        self._check_the_same(number, paths)
        unread = {printable(planned[position].image.path): str(error) for position, error in read.errors.items()}
        return Chunk(number, x, y, paths, self._subject, unread)

    def climbers(self, rung: Rung, number: int) -> Chunk:
        """The photographs of a chunk that climb a rung: all, or only the first ones if the rung is expensive."""
        return self._of(rung, self.load(number))

    def _of(self, rung: Rung, chunk: Chunk) -> Chunk:
        return chunk.only(set(self._planned(chunk.number)[: self._plan.climbing(rung, chunk.number)]))

    def _planned(self, number: int) -> list[str]:
        return [printable(photograph.image.path) for photograph in self._chunks[number]]

    def _check_the_same(self, number: int, paths: Sequence[str]) -> None:
        """Refuse a chunk if other photographs can be read now than when it climbed the clean rung."""
        clean = part_file(self._records, "clean", number)
        if clean.exists():
            before = set(self._planned(number)) - set(unreadable(clean))
            if changed := sorted(before ^ set(paths)):
                raise PurifyctlError(
                    f"{changed[0]} could be read earlier in this evaluation and cannot now, or the other way round.",
                    hint="put it back as it was, or choose another --out",
                )

    @torch.no_grad()
    def _labels(self, photographs: Sequence[Photograph], x: torch.Tensor) -> torch.Tensor:
        if not photographs or photographs[0].true_index is not None:
            return torch.tensor([p.true_index for p in photographs], dtype=torch.int64, device=x.device)
        predicted: torch.Tensor = self._subject.classifier(x).argmax(1)
        return predicted

    def _climb(self, rung: Rung, chunk: Chunk) -> tuple[int, float]:
        """Returns how many images climbed, and how many seconds that took."""
        started = time.monotonic()
        climbers = self._of(rung, chunk)
        rows = climb(rung, climbers) if climbers.paths else []
        if rung.attack is None:
            rows += [Outcome(path, "", error=why) for path, why in chunk.unreadable.items()]
        write_records(rows, part_file(self._records, rung.key, chunk.number))
        seconds = time.monotonic() - started
        with self._times.open("a") as log:
            line = {"rung": rung.key, "chunk": chunk.number, "images": len(climbers.paths), "seconds": seconds}
            log.write(json.dumps(line) + "\n")
        return len(climbers.paths), seconds


def _doing(rung: Rung) -> str:
    return f"{rung.title}, {rung.threat_model.replace('_', '-')}" if rung.attack else "clean"


def measured(times: Path) -> dict[str, tuple[float, int]]:
    """Seconds and images of each rung so far, by key."""
    seconds: dict[str, float] = defaultdict(float)
    images: dict[str, int] = defaultdict(int)
    for line in times.read_text().splitlines() if times.exists() else ():
        try:
            entry = json.loads(line)
        except ValueError:  # a full disk cut the line short
            continue
        seconds[entry["rung"]] += entry["seconds"]
        images[entry["rung"]] += entry["images"]
    return {key: (seconds[key], images[key]) for key in seconds}


def cost(times: Path, ladder: Sequence[Rung]) -> list[dict[str, Any]]:
    """Wall time per image on each rung, attack and all defences together, in ms."""
    known = measured(times)
    return [
        {"rung": rung.key, "images": images, "ms_per_image": round(1e3 * seconds / images, 1)}
        for rung in ladder
        for seconds, images in [known.get(rung.key, (0.0, 0))]
        if images
    ]
