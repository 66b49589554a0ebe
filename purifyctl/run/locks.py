"""Locks between the calls that work on one run. They end with their process, however it ends."""

import contextlib
import fcntl
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from purifyctl import console
from purifyctl.errors import BusyError, ConfigError


@contextmanager
def shared(file: Path, of: int) -> Iterator[None]:
    """Hold a lock together with the other calls that share the run, if all say the same N of `--shard I/N`."""
    with locked(file, fcntl.LOCK_EX | fcntl.LOCK_NB if of == 1 else fcntl.LOCK_SH | fcntl.LOCK_NB) as stream:
        if of > 1:
            with contextlib.suppress(OSError):  # another call is there, or the file system knows no locks
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the first call writes down its N
                stream.truncate(0)
                stream.write(str(of))
                stream.flush()
            with contextlib.suppress(OSError):
                fcntl.flock(stream, fcntl.LOCK_SH)
            stream.seek(0)
            if (others := stream.read()) not in ("", str(of)):
                raise BusyError(
                    f"Calls that share {file.parent} among {others} are at work on it.", hint=f"--shard I/{others}"
                )
        yield


@contextmanager
def locked(file: Path, how: int = fcntl.LOCK_EX | fcntl.LOCK_NB) -> Iterator[IO[str]]:
    """Hold a lock."""
    try:
        stream = file.open("a+")
    except OSError as error:
        raise ConfigError(f"{file.parent} cannot be written to: {error.strerror}.", hint="check --out") from None
    with stream:
        try:
            fcntl.flock(stream, how)
        except BlockingIOError:
            raise BusyError(
                f"Another call is at work on {file.parent}.", hint="wait for it, or choose another --out"
            ) from None
        except OSError as error:
            console.warn(f"{file.parent} knows no locks ({error.strerror}): see that no two calls do the same work.")
        yield stream


@contextmanager
def in_turn(file: Path) -> Iterator[bool]:
    """Hold a lock, and wait for it if another call has it. Yields whether this call had to wait."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(file))
            waited = False
        except BusyError:
            stack.enter_context(locked(file, fcntl.LOCK_EX))
            waited = True
        yield waited
