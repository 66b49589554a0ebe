"""How far the listing of a server goes. A server may be hostile, or have a link that leads in a circle."""

import time
from collections.abc import Sequence

from purifyctl.errors import ConfigError

SECONDS = 3600.0
PAGES = 100_000  # index pages, one for each folder
BYTES = 4 << 30  # of index pages, and of what is read of archives
DEPTH = 64  # folders within each other
NAMES = 2_000_000  # of a folder and of those that it lies in, which wait in memory
CHAIN = 4  # folders within each other that hold the same names and no file: a circle


class Bounds:
    """Counts what one listing has taken.

    Parameters
    ----------
    name
        The source, for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._began: float | None = None
        self._pages = self._bytes = 0
        self._above: list[
            tuple[int, bool]
        ] = []  # of each folder on the way: its names, as a hash; whether it has files
        self._waiting: list[int] = []  # the number of its names

    def enter(self, path: bytes) -> None:
        """Before a folder is listed. `path`: relative to the source, each name with a slash.

        Raises
        ------
        OSError
            This folder is not listed: it lies too deep.
        ConfigError
            The whole listing has taken too much.
        """
        self._pages += 1
        self.count(0)
        if path.count(b"/") > DEPTH:
            raise OSError(f"it lies more than {DEPTH} folders deep")

    def check(self, path: bytes, names: Sequence[tuple[bytes, bool, str]]) -> None:
        """After a folder was listed. Raises OSError if it shows the same as a folder that it lies in, or too much."""
        shown = (hash(frozenset(name[:2] for name in names)), any(not is_folder for _, is_folder, _ in names))
        self._above = [*self._above[: path.count(b"/")], shown]
        self._waiting = [*self._waiting[: path.count(b"/")], len(names)]
        if sum(self._waiting) > NAMES:
            raise OSError(f"together with the folders that it lies in, it has more than {NAMES:,} names")
        same = self._above.count(shown)
        if names and same >= (2 if shown[1] else CHAIN):
            raise OSError("it shows the same names as a folder that it lies in: the server leads in a circle")

    def count(self, n: int) -> None:
        """Count bytes that were read. Raises ConfigError as `enter` does."""
        self._began = self._began or time.monotonic()
        self._bytes += n
        for taken, limit, what in (
            (self._pages, PAGES, "folders"),
            (self._bytes, BYTES, "bytes of index pages and archives' headers"),
            (time.monotonic() - self._began, SECONDS, "seconds"),
        ):
            if taken > limit:
                raise ConfigError(
                    f"{self._name} cannot be listed: it has taken more than {limit:,.0f} {what}.",
                    hint="name a folder below it as SRC, or the files with --files-from LIST",
                )
