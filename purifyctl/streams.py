"""What libraries print to stdout and stderr, Python's and native code's, as lines for somebody else to show."""

import atexit
import faulthandler
import os
import sys
import threading
from collections.abc import Callable
from typing import TextIO

from rich.console import Console
from rich.file_proxy import FileProxy

_open: list[TextIO] = []  # streams to stderr, until the process ends: native code may print at any time


class Lines(FileProxy):
    """Takes the place of stdout or stderr, and hands on each line that is written.

    It is rich's own proxy, so that a bar puts no other one in its place.

    Parameters
    ----------
    console
        What rich's proxy would print to; it is not used.
    beneath
        The stream whose place it takes.
    """

    def __init__(self, console: Console, beneath: TextIO, show: Callable[[str], None]) -> None:
        super().__init__(console, beneath)
        self.beneath, self._show = beneath, show
        self._unfinished = ""
        self._lock = threading.RLock()

    def write(self, text: str) -> int:
        with self._lock:
            *lines, self._unfinished = (self._unfinished + text).split("\n")
        for line in lines:
            self._show(line.rsplit("\r", 1)[-1])  # before it: earlier states of a bar
        return len(text)

    def flush(self) -> None:
        """A line is shown when it ends."""

    def isatty(self) -> bool:
        return False  # no colours and no bars


def take_native(show: Callable[[str], None] | None) -> TextIO:
    """Take what native code prints to stderr, and show it line by line; None: drop it. Returns a stream to stderr."""
    sys.stderr.flush()
    ours = os.fdopen(os.dup(2), "w", buffering=1, errors="backslashreplace")
    faulthandler.enable(ours)  # a crash in native code must still be seen
    _open.append(ours)
    if show is None:
        with open(os.devnull, "w") as nowhere:  # noqa: PTH123 (a device, not a path of ours)
            os.dup2(nowhere.fileno(), 2)
        return ours
    reading, writing = os.pipe()
    os.dup2(writing, 2)
    os.close(writing)

    def relay() -> None:
        with os.fdopen(reading, errors="surrogateescape") as lines:
            for line in lines:
                show(line.rstrip("\n"))

    thread = threading.Thread(target=relay, daemon=True)
    thread.start()

    def end() -> None:
        os.dup2(ours.fileno(), 2)
        thread.join(1.0)  # what is still in the pipe

    atexit.register(end)
    return ours
