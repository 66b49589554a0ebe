"""Checks of the folders that purifyctl writes to."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from purifyctl.doctor.check import Check, attempt
from purifyctl.errors import PurifyctlError
from purifyctl.files import write_atomically
from purifyctl.machine import cache_folder, state_folder


def folders(out: Path, *, cache_needed: bool) -> Iterator[Check]:
    """The folders can be written to, in which `run` writes: what it builds, that it built it, temporary files, images.

    Parameters
    ----------
    cache_needed
        `run` is going to build its engine, which it does in a temporary folder if there is no other.
    """
    for check_id, folder in (("disk.cache", cache_folder() / "engines"), ("disk.state", state_folder())):
        variable = f"PURIFYCTL_{check_id.removeprefix('disk.').upper()}"
        every_time = "; an engine that is not there yet is built again at each call" if cache_needed else ""
        yield attempt(check_id, _writable, folder, every_time, needed=False, fix=f"set {variable}")
    yield attempt("disk.temporary", _temporary, fix="set TMPDIR")
    yield attempt("disk.out", _writable, out, fix="choose another --out")


def _temporary() -> str:
    try:
        return _writable(Path(tempfile.gettempdir()))
    except FileNotFoundError as error:
        raise PurifyctlError(f"no temporary folder: {error.strerror}") from None


def _writable(folder: Path, otherwise: str = "") -> str:
    """Write, rename and delete a file of 1 MiB in a folder. If it does not exist, do so in its nearest parent."""
    folder = place = folder.absolute()
    try:
        place = next(path for path in (folder, *folder.parents) if path.exists())
        file = place / f".purifyctl-doctor-{os.getpid()}"
        write_atomically(file, bytes(1 << 20))  # not empty: an empty file fits on a full disk
        file.unlink()
        free = shutil.disk_usage(place).free >> 20
    except OSError as error:
        raise PurifyctlError(f"{place} cannot be written to: {error.strerror}{otherwise}") from None
    return f"{folder}: {free:,} MiB free"
