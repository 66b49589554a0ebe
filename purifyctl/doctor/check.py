"""One check: do something small, and say what became of it."""

import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from purifyctl import console
from purifyctl.errors import PurifyctlError

Status = Literal["ok", "missing", "failed"]


@dataclass(frozen=True)
class Check:
    """The outcome of one check."""

    id: str  # "subject.name" or "subject.name.detail"; the same on every machine
    status: Status  # missing: something optional is absent or broken; failed: the same for something that `run` needs
    detail: str
    fix: str = ""  # the line that installs or repairs it


def attempt(check_id: str, action: Callable[..., str], *given: Any, needed: bool = True, fix: str = "") -> Check:
    """Make one check. `action` returns what it found, or raises why it failed.

    Parameters
    ----------
    needed
        `run` cannot do without it.
    fix
        The line that repairs it, if the error has no hint of its own.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # libraries' advice to programmers
            return Check(check_id, "ok", action(*given))
    except Exception as error:  # broken libraries raise anything
        return failure(check_id, error, needed=needed, fix=fix)


def failure(check_id: str, error: Exception, *, needed: bool = True, fix: str = "") -> Check:
    """A check that failed with `error`. Parameters are those of `attempt`."""
    status: Status = "failed" if needed else "missing"
    if not isinstance(error, PurifyctlError) or error.__cause__:
        console.detail("".join(traceback.format_exception(error)))
    if isinstance(error, PurifyctlError):
        return Check(check_id, status, error.message, error.hint or fix)
    if isinstance(error, ImportError):
        itself = check_id == "libraries"  # purifyctl's metadata is missing, or the library that reads it
        fix = "pip install --force-reinstall purifyctl" if itself else "repair what is wrong under libraries"
    return Check(check_id, status, f"{type(error).__name__}: {error}", fix)
