"""What whole pictures share in a worker: room in memory, and a word to the parent about where a batch is."""

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STAGES = ("decode", "infer", "write")


class Room:
    """Room for a number of pixels, or bytes. Who needs more than all of it gets it alone. First come, first served."""

    def __init__(self, size: int) -> None:
        self._size, self._taken = size, 0
        self._freed = threading.Condition()
        self._door = threading.Lock()  # the one that waits for room stands in the door

    def take(self, amount: int) -> None:
        """Wait until there is room for this much."""
        with self._door, self._freed:
            self._freed.wait_for(lambda: not self._taken or self._taken + amount <= self._size)
            self._taken += amount

    def give(self, amount: int) -> None:
        """Give back what was taken."""
        with self._freed:
            self._taken -= amount
            self._freed.notify_all()


class Whereabouts:
    """Tells the parent where a batch is whose images go their own ways: in the earliest stage that one of them is in.
    None: all of them wait.
    """

    def __init__(self, entered: Callable[[str | None], None]) -> None:
        self._entered = entered
        self._lock = threading.Lock()
        self._images: Counter[str] = Counter()

    @contextmanager
    def at(self, stage: str) -> Iterator[None]:
        """An image, or some of its tiles, is in this stage."""
        self._move(stage, 1)
        try:
            yield
        finally:
            self._move(stage, -1)

    def _move(self, stage: str, by: int) -> None:
        with self._lock:
            self._images[stage] += by
            self._entered(next((stage for stage in STAGES if self._images[stage]), None))
