"""Which batch a worker gets next. This module knows no processes."""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace

from purifyctl.run.messages import InputBatch
from purifyctl.run.parent.blame import Fate, History, InHand, Verdict, judge


class Feed:
    """The batches of one device: those that come, and those that come again after a worker died."""

    def __init__(self) -> None:
        self._again: deque[InputBatch] = deque()  # these were in hand when a worker died
        self._alone: deque[InputBatch] = deque()  # these go one after another, with nothing else in hand
        self._decodable: list[InputBatch] = []  # inputs that were only decoded, and did no harm
        self._history = History()

    def next(self, in_hand: Collection[InHand], batches: Iterator[InputBatch]) -> InHand | None:
        """What to send next to a worker that has these batches in hand. None: nothing, for now."""
        if any(held.alone for held in in_hand):
            return None
        if self._alone:
            return None if in_hand else InHand(self._alone.popleft(), alone=True)
        self._again.extend(_together(self._decodable))
        self._decodable = []
        batch = self._again.popleft() if self._again else next(batches, None)
        return None if batch is None else InHand(batch)

    def done(self, batch: InputBatch) -> bool:
        """The worker has done a batch. Returns whether its rows count; if not, its inputs come again."""
        if batch.decode_only:
            self._decodable.append(batch)
        return not batch.decode_only

    def died(self, in_hand: Sequence[InHand], late_since: float | None = None) -> list[Verdict]:
        """The worker died, or hung (`late_since`, as for `blame.blamed`), and had these in hand, in the order in which
        they were sent. All of them come again, except those that are given up.
        """
        verdicts = judge(self._history, in_hand, late_since)
        for verdict in verdicts:
            held, batch = verdict.held, verdict.held.batch
            match verdict.fate:
                case Fate.ALONE:
                    self._alone.appendleft(batch)
                case Fate.AGAIN:
                    if held.alone:
                        self._alone.appendleft(batch)
                    else:
                        self._again.append(batch)
                case Fate.ONE_BY_ONE | Fate.DECODE_ONE_BY_ONE:
                    self._alone.extend(_one_by_one(batch, verdict.fate is Fate.DECODE_ONE_BY_ONE))
                case Fate.GIVE_UP:
                    pass
        return verdicts


def _one_by_one(batch: InputBatch, decode_only: bool) -> Iterator[InputBatch]:
    for position, one in zip(batch.positions, batch.inputs, strict=True):
        yield replace(batch, positions=(position,), inputs=(one,), decode_only=decode_only)


def _together(singles: Iterable[InputBatch]) -> Iterator[InputBatch]:
    """Put inputs of one batch back into one batch."""
    by_batch: dict[tuple[int, int], list[InputBatch]] = {}
    for single in singles:
        by_batch.setdefault((single.part, single.number), []).append(single)
    for same in by_batch.values():
        positions = tuple(position for single in same for position in single.positions)
        yield replace(same[0], positions=positions, inputs=[i for one in same for i in one.inputs], decode_only=False)
