"""Flagged images from several batches are purified together, because each batch has only a few of them."""

import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Gatherer(Generic[T]):
    """Gathers the images that batches leave behind, and processes them in full batches.

    Images that do not fill a batch are processed only when no batch is on its way here: at the end, or when many
    batches wait for their images, so that no more come. The thread that fills a batch, or that comes last, processes
    it.

    Parameters
    ----------
    size
        How many images fill a batch.
    room
        How many batches may be on their way here at once.
    process
        Called with at most `size` images at a time, from the threads that call `leave`.
    """

    def __init__(self, size: int, room: int, process: Callable[[list[T]], None]) -> None:
        self._size, self._process = size, process
        self._room = threading.Semaphore(room)
        self._lock = threading.Lock()
        self._coming = 0
        self._waiting: list[T] = []

    def enter(self) -> None:
        """A batch sets out. Waits for room."""
        self._room.acquire()
        with self._lock:
            self._coming += 1

    def leave(self, left: Iterable[T] = ()) -> None:
        """A batch has come, and leaves these images behind."""
        with self._lock:
            self._waiting += left
            self._coming -= 1
        self._room.release()
        while batch := self._next():
            self._process(batch)

    def _next(self) -> list[T]:
        with self._lock:
            if len(self._waiting) < self._size and self._coming:
                return []
            batch, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
            return batch
