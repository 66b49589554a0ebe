"""One input: where it lies, and its bytes."""

import re
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from purifyctl.errors import ImageError

if TYPE_CHECKING:
    from purifyctl.sources.remote import RemoteTree

MAX_BYTES = 512 * 1024**2  # of one file; larger ones are no photographs


def is_url(text: str) -> bool:
    return re.match(r"[A-Za-z][A-Za-z0-9+.:-]*://", text) is not None


@dataclass(frozen=True)
class ImageFile:
    """One input: where it lies, and its path relative to the source, by which every result names it."""

    file: Path | str  # a str is a URL, which Path would change
    path: PurePosixPath
    span: tuple[int, int] | None = None  # first byte and length within `file`; None: the whole file
    problem: str = ""  # why it cannot be read, where that is known already

    @property
    def size(self) -> int:
        """Bytes; -1 of what is not there, such as the target of a broken link. It gets its row when it is read."""
        try:
            return self.span[1] if self.span else Path(self.file).stat().st_size
        except OSError:
            return -1


def read_file(image: ImageFile, max_bytes: int = MAX_BYTES, *, remote: "RemoteTree | None" = None) -> NDArray[np.uint8]:
    """The bytes of one input.

    Parameters
    ----------
    remote
        The source that a URL lies in.

    Raises
    ------
    ImageError
        With status "unreadable" (missing, no permission, not a regular file) or "too_large".
    """
    if image.problem:
        raise ImageError("unreadable", image.problem)
    if isinstance(image.file, str):
        if remote is None:
            raise ValueError("a URL is read through its source")
        return np.frombuffer(remote.read(image.file, image.span, max_bytes), np.uint8)
    try:
        facts = image.file.stat()
        if not stat.S_ISREG(facts.st_mode):  # opening a pipe would wait for its writer for ever
            raise ImageError("unreadable", "It is not a regular file.")
        start, size = image.span or (0, facts.st_size)
        if size > max_bytes:
            raise ImageError("too_large", f"The file has {size:,} bytes; {max_bytes:,} are allowed.")
        return np.fromfile(image.file, np.uint8, count=size, offset=start)
    except OSError as error:
        raise ImageError("unreadable", f"It cannot be read: {error.strerror or error}.") from None
