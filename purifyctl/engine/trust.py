"""Engine bundles that may run here: those built here, and those that the user has said to trust.

One line per bundle in the user's state folder: the SHA-256 of its manifest, which holds the hashes of all else, and
where it lay.
"""

import os
from pathlib import Path

from purifyctl import console
from purifyctl.machine import state_folder

_FILE = "trusted-bundles"
_in_this_process: set[str] = set()  # what could not be written down


def is_trusted(sha256: str) -> bool:
    try:
        lines = (state_folder() / _FILE).read_text(errors="replace").splitlines()
    except OSError:  # none yet, or not to be read
        lines = []
    return sha256 in _in_this_process or any(line.split(" ", 1)[0] == sha256 for line in lines)


def remember(sha256: str, path: Path) -> None:
    """From now on the bundle with this hash may run here."""
    if is_trusted(sha256):
        return
    folder = state_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _FILE).open("a", errors="backslashreplace") as stream:
            # one write: lines of processes that do this at the same time do not mix
            stream.write(f"{sha256} {os.fspath(path.absolute())!r}\n")
    except OSError as error:
        _in_this_process.add(sha256)
        console.warn(
            f"{folder} cannot be written ({error.strerror}): {path} is trusted this once. Set PURIFYCTL_STATE."
        )
