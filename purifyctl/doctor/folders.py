"""Checks of the folders that purifyctl writes to."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from purifyctl.doctor.check import Check, attempt
from purifyctl.errors import PurifyctlError
from purifyctl.files import write_atomically
from purifyctl.machine import cache_folder, state_folder


def folders(out: Path, *, cache_needed: bool) -> Iterator[Check]:
    """The folders can be written to."""
    yield attempt("disk.cache", _writable, cache_folder(), needed=cache_needed, fix="set PURIFYCTL_CACHE")
    yield attempt("disk.state", _writable, state_folder(), needed=False, fix="set PURIFYCTL_STATE")
    yield attempt("disk.out", _writable, out, fix="choose another --out")


def _writable(folder: Path) -> str:
    """Write, rename and delete a file of 1 MiB in a folder. If it does not exist, do so in its nearest parent."""
    folder = place = folder.absolute()
    try:
        place = next(path for path in (folder, *folder.parents) if path.exists())
        file = place / f".purifyctl-doctor-{os.getpid()}"
        write_atomically(file, bytes(1 << 20))  # not empty: an empty file fits on a full disk
        file.unlink()
        free = shutil.disk_usage(place).free >> 20
    except OSError as error:
        raise PurifyctlError(f"{place} cannot be written to: {error.strerror}") from None
    return f"{folder}: {free:,} MiB free"
