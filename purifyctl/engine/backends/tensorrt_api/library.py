"""Load a library, keep its errors for messages, keep what it learned for the next start."""

import functools
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from purifyctl import console
from purifyctl.config import BackendName
from purifyctl.engine.backends import library
from purifyctl.errors import BackendError
from purifyctl.files import write_into_tree


@dataclass(frozen=True)
class Library:
    """One of the two libraries, loaded."""

    name: BackendName
    trt: Any  # its Python module
    logger: Any  # has `errors`, the last few, and `reason()`, the same as one text

    def start(self, kind: Any) -> Any:
        """Make a `Builder` or a `Runtime`.

        Raises
        ------
        BackendError
            There is no usable GPU driver.
        """
        self.logger.errors.clear()
        try:
            return kind(self.logger)
        except TypeError:  # how the bindings say that there is no driver
            raise BackendError(f"{self.name} cannot start: it finds no usable GPU driver.", hint="nvidia-smi") from None


@functools.cache
def load(name: BackendName) -> Library:
    """Load a library, with a logger that keeps its errors for our messages, and prints nothing.

    One logger per process: the library keeps using the first one that it was given.

    Raises
    ------
    MissingDependencyError
        It is not installed.
    """
    trt = library(name)

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=3)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

        def reason(self) -> str:
            return "; ".join(self.errors) or "it gave no reason"

    return Library(name, trt, Logger())


@dataclass(frozen=True)
class Cache:
    """What a library learned, as one of its own objects, and the file in the user's cache that keeps it."""

    file: Path
    data: Any  # has `serialize()`

    def keep(self) -> None:
        write(self.file, self.data.serialize())


def read(file: Path) -> bytes:
    """What was kept in `file`; empty if there is nothing yet."""
    try:
        return file.read_bytes()
    except FileNotFoundError:
        return b""


def write(file: Path, data: Any) -> None:
    """Keep the library's `data` in the user's cache. A failure costs time at the next start: it is only a warning."""
    try:
        write_into_tree(file, bytes(data))
    except OSError as error:
        console.warn(f"{file} cannot be written, so the next start takes longer: {error.strerror or error}.")
