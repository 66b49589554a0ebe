"""Several devices make one stream of rows."""

import queue
import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Protocol

from purifyctl.errors import BackendError
from purifyctl.run.messages import InputBatch
from purifyctl.run.rows import Row

RESULTS = 4  # batches per device that are done and not yet taken in; then a device waits
AWAKE_S = 0.5  # how often a waiting thread checks whether all is over


class LostDeviceError(BackendError):
    """A device is gone for good. It has given back what it had in hand."""


class Batches:
    """The batches that are left to do. Devices take them in turns, and give back those that they cannot do."""

    def __init__(self, batches: Iterator[InputBatch], devices: int) -> None:
        self._batches = batches
        self._back: deque[InputBatch] = deque()
        self._working = self._living = devices
        self._over = False
        self._changed = threading.Condition()

    def __iter__(self) -> Iterator[InputBatch]:
        return self

    def __next__(self) -> InputBatch:
        with self._changed:
            return self._back.popleft() if self._back else next(self._batches)

    def give_back(self, batches: Iterable[InputBatch]) -> None:
        with self._changed:
            self._back.extend(batches)
            self._changed.notify_all()

    def rest(self) -> bool:
        """A device finds nothing to take. Wait until something is given back (True), or nobody is at work (False)."""
        with self._changed:
            self._working -= 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._back or not self._working or self._over)
            if not self._back or self._over:
                return False
            self._working += 1
            return True

    def close(self) -> None:
        """Nobody waits any more."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    def lose_one(self) -> bool:
        """A device is lost. Returns whether others live."""
        with self._changed:
            self._working -= 1
            self._living -= 1
            self._changed.notify_all()
            return self._living > 0


class Device(Protocol):
    """Something that works on batches, here or elsewhere."""

    ready_at: float | None  # when it was ready to work, in time.monotonic(); None: not yet
    threads: Mapping[str, int]  # of each stage, once it is ready

    @property
    def under_way(self) -> float:
        """How much of the batches in hand is done, about, in images. It is shown, and nothing depends on it."""
        ...

    def process(self, batches: Batches) -> Iterator[tuple[InputBatch, list[Row]]]:
        """Rows of every batch, in the order in which they are done. A batch may come back in several smaller ones.

        Raises
        ------
        LostDeviceError
            The device is gone, and the others may continue.
        PurifyctlError
            No device can continue.
        """
        ...

    def close(self) -> None:
        """Stop at once. Any thread may call this."""
        ...


def process_all(
    devices: Sequence[Device], batches: Iterator[InputBatch]
) -> Generator[tuple[InputBatch | None, list[Row]], None, None]:
    """Rows of every batch, from all devices. The first error stops all of them; the loss of a device only if it was the
    last one.

    No batch and no rows: nothing has come for `AWAKE_S`, and the caller may show what is under way.
    """
    shared = Batches(batches, len(devices))
    results: queue.Queue[tuple[InputBatch, list[Row]] | BaseException | None] = queue.Queue(RESULTS * len(devices))
    over = threading.Event()

    def put(result: tuple[InputBatch, list[Row]] | BaseException | None) -> None:
        while not over.is_set():
            with suppress(queue.Full):
                results.put(result, timeout=AWAKE_S)
                return

    def work(device: Device) -> None:
        try:
            working = True
            while working:
                for result in device.process(shared):
                    put(result)
                working = shared.rest()
            put(None)
        except LostDeviceError as error:
            put(None if shared.lose_one() else error)
        except BaseException as error:
            put(error)

    with ExitStack() as stack:
        stack.callback(over.set)
        stack.callback(shared.close)
        for device in devices:
            stack.callback(device.close)
            threading.Thread(target=work, args=(device,), daemon=True).start()
        working = len(devices)
        while working:
            try:
                result = results.get(timeout=AWAKE_S)
            except queue.Empty:
                yield None, []
                continue
            if isinstance(result, BaseException):
                raise result
            if result is None:
                working -= 1
            else:
                yield result
