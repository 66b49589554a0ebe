"""A folder that becomes a bundle whole, or not at all."""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from purifyctl.engine.manifest import MANIFEST
from purifyctl.errors import ConfigError


def check_out(out: Path, *, overwrite: bool) -> None:
    """Refuse to replace anything but a bundle, or a bundle without `overwrite`.

    Raises
    ------
    ConfigError
        `out` exists.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / MANIFEST).is_file():
        raise ConfigError(f"{out} exists and is no engine bundle.", hint="choose another --out")
    if not overwrite:
        raise ConfigError(f"The bundle {out} exists.", hint="choose another --out, or pass --overwrite")


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A folder beside `out` to build in. It is removed at the end, unless `commit` has put it in its place.

    Folders that killed builds of `out` have left are removed first.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(out)
    work = Path(tempfile.mkdtemp(prefix=f".{out.name}.", suffix=".part", dir=out.parent))
    lock = _lock(work, wait=True)
    try:
        yield work
    except KeyboardInterrupt as interrupt:
        kept = "what was there before is unchanged" if out.exists() else "nothing half-built is left"
        interrupt.add_note(f"The engine {out} is not built; {kept}. The same command begins again.")
        raise
    finally:
        shutil.rmtree(work, ignore_errors=True)
        if lock is not None:
            os.close(lock)


@contextmanager
def one_at_a_time(out: Path) -> Iterator[None]:
    """Wait while another process is here with the same `out`: what it builds need not be built twice."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with (out.parent / f".{out.name}.lock").open("w") as lock:
        with suppress(OSError):  # the file system has no locks
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def commit(work: Path, out: Path, *, overwrite: bool) -> None:
    """Put the finished folder in its place. A reader finds the old bundle, the new one, or for a moment none.

    Raises
    ------
    ConfigError
        `out` has come to exist since the build began.
    """
    check_out(out, overwrite=overwrite)
    work.chmod(0o755)
    if not out.exists():
        work.rename(out)
        return
    old = work.with_suffix(".old.part")
    out.rename(old)
    work.rename(out)
    shutil.rmtree(old)


def _lock(work: Path, *, wait: bool = False) -> int | None:
    """Lock the folder, so that other builds see that this one is using it; the kernel unlocks it when the process ends.

    None: the file system has no locks or, without `wait`, another build holds it.
    """
    opened = None
    try:
        opened = os.open(work, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(opened, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        if opened is not None:
            os.close(opened)
        return None
    return opened


def _remove_leftovers(out: Path) -> None:
    """Remove the folders that killed builds of `out` have left: those that no process has locked."""
    ours = re.compile(rf"\.{re.escape(out.name)}\.[a-z0-9_]{{8}}\.part")  # as `tempfile.mkdtemp` names them
    for folder in out.parent.iterdir():
        if not ours.fullmatch(folder.name) or (lock := _lock(folder)) is None:
            continue
        empty = not any(folder.iterdir())  # a build that has just begun may not have its lock yet
        if not empty:
            shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
