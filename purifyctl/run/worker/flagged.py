"""Images of several batches that are processed together, since few of each batch need it."""

import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

T = TypeVar("T")


class Gatherer(Generic[T]):
    """Collects what batches leave behind, and processes it in full packs.

    A pack that is not full goes only when no batch is on its way here: at the end, or when so many batches wait for
    their images that no more come. Whoever fills a pack, or is the last on the way, processes it.

    Parameters
    ----------
    size
        Of a full pack.
    room
        Batches that may be on their way here at once.
    process
        Called with at most `size` images at a time, from the threads that leave.
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
        while pack := self._next():
            self._process(pack)

    def _next(self) -> list[T]:
        with self._lock:
            if len(self._waiting) < self._size and self._coming:
                return []
            pack, self._waiting = self._waiting[: self._size], self._waiting[self._size :]
            return pack
