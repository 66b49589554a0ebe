"""Engine bundles that may run here: those built here, and those that the user has said to trust.

A file in the user's state folder has one line per bundle: the SHA-256 of its manifest, which holds the hashes of all
its files, and the bundle's path at that time.
"""

import os
from pathlib import Path

from purifyctl import console
from purifyctl.machine import state_folder

_FILE = "trusted-bundles"
_in_this_process: set[str] = set()  # trusted, but not in the file


def is_trusted(sha256: str) -> bool:
    try:
        lines = (state_folder() / _FILE).read_text(errors="replace").splitlines()
    except OSError:  # there is no file yet, or it cannot be read
        lines = []
    return sha256 in _in_this_process or any(line.split(" ", 1)[0] == sha256 for line in lines)


def accept(sha256: str) -> None:
    """Let the bundle with this hash run in this process, and in no other."""
    _in_this_process.add(sha256)


def remember(sha256: str, path: Path) -> None:
    """Let the bundle with this hash run here from now on."""
    if is_trusted(sha256):
        return
    folder = state_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _FILE).open("a", errors="backslashreplace") as stream:
            # one write: lines do not mix if several processes do this at the same time
            stream.write(f"{sha256} {os.fspath(path.absolute())!r}\n")
    except OSError as error:
        accept(sha256)
        console.warn(
            f"{folder} cannot be written ({error.strerror}): {path} is trusted this once. Set PURIFYCTL_STATE."
        )
