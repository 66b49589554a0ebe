"""Many devices, one stream of rows."""

import queue
import threading
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Protocol

from purifyctl.bundle import Bundle
from purifyctl.pipeline.messages import Batch
from purifyctl.pipeline.rows import Row


class Device(Protocol):
    """Something that works on batches, here or elsewhere."""

    ready_at: float | None  # when it was ready to work, in time.monotonic(); None: not yet
    threads: Mapping[str, int]  # of each stage, once it is ready

    def process(self, batches: Iterator[Batch]) -> Iterator[tuple[Batch, list[Row]]]:
        """Rows of every batch, in whatever order they are done; of a batch that was cut, in its pieces."""
        ...

    def close(self) -> None:
        """Stop at once, from whatever thread."""
        ...


def gpus(bundle: Bundle) -> list[int | None]:
    """The devices of this machine to work on: every GPU that this process sees, or the CPU."""
    if bundle.device == "cpu":
        return [None]
    import torch

    return list(range(torch.cuda.device_count())) or [None]


def process_all(devices: Sequence[Device], batches: Iterator[Batch]) -> Generator[tuple[Batch, list[Row]], None, None]:
    """Rows of every batch, from whichever device took it. The first error of one stops all."""
    shared = _Shared(batches)
    results: queue.SimpleQueue[tuple[Batch, list[Row]] | BaseException | None] = queue.SimpleQueue()

    def work(device: Device) -> None:
        try:
            for result in device.process(shared):
                results.put(result)
            results.put(None)
        except BaseException as error:
            results.put(error)

    with ExitStack() as stack:
        for device in devices:
            stack.callback(device.close)
            threading.Thread(target=work, args=(device,), daemon=True).start()
        working = len(devices)
        while working:
            result = results.get()
            if isinstance(result, BaseException):
                raise result
            if result is None:
                working -= 1
            else:
                yield result


class _Shared:
    """An iterator that threads take from in turns."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self._lock = threading.Lock()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        with self._lock:
            return next(self._batches)
