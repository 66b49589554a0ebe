"""Ctrl-C, and SIGTERM, which schedulers send. The first one stops the work cleanly, the second one aborts."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from purifyctl import console


@contextmanager
def drain_on_interrupt(promise: str) -> Iterator[threading.Event]:
    """Yield an event that the first Ctrl-C or SIGTERM sets. The user then reads `promise`.

    The second one raises KeyboardInterrupt. Outside the main thread the event is never set, because Python delivers no
    signals there.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_signal(_number: int, _frame: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        # in a thread: this one may hold the console's lock, or be in the middle of a line
        text = f"Interrupted: {promise} Press Ctrl-C again to abort."
        threading.Thread(target=console.warn, args=(text,), daemon=True).start()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
