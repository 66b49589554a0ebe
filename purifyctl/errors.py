"""Every failure a user can mend, as one tree.

    PurifyctlError              exit code 1; cause, file and next step in its message
    ├── ConfigError             exit code 2; a recipe, flag or source that cannot work
    ├── MissingDependencyError  an optional package is not installed
    ├── WeightsError            weights cannot be had, read, or fitted to their network
    ├── ImageError              one image cannot be read; carries the status its row gets
    ├── InputError              images of another shape, type or range than a Python function takes; a ValueError too
    ├── TrainingError           a training cannot go on
    ├── BackendError            an inference library or device refuses
    ├── BusyError               another call is at work on it, or a server does not answer: later it may go well
    ├── OutputError             results cannot be written: a full or read-only disk
    ├── BundleError             an engine bundle is damaged, foreign, or does not fit
    └── ParityError             an engine does not agree with its torch reference

Anything else that escapes is a bug and keeps its traceback.
"""

from typing import Any, Literal

Status = Literal[
    "ok",
    "unreadable",  # the file cannot be opened or read
    "empty",  # zero bytes
    "not_an_image",  # no image header
    "unsupported_format",  # an image, of a kind that is not decoded here
    "too_large",  # more pixels than allowed
    "decode_failed",  # damaged or cut short
    "crashed",  # the process died of it, twice, the second time with no other image in hand
    "timeout",  # it took longer than --image-timeout, likewise
    "write_failed",  # the purified image could not be written
]


class PurifyctlError(Exception):
    """An expected failure. `str(error)` says what happened, where, and what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        """`message`: cause and file. `hint`: the next step, a command where there is one."""
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        """Goes from one process to another, whatever a subclass takes to be made."""
        return _made_again, (type(self), self.message, self.hint)

    def __str__(self) -> str:
        return f"{self.message}\n  -> {self.hint}" if self.hint else self.message


def _made_again(kind: type[PurifyctlError], message: str, hint: str) -> PurifyctlError:
    error = kind.__new__(kind)
    PurifyctlError.__init__(error, message, hint=hint)
    return error


class ConfigError(PurifyctlError):
    exit_code = 2


class MissingDependencyError(PurifyctlError):
    def __init__(self, package: str, *, needed_for: str, extra: str) -> None:
        super().__init__(
            f"{needed_for} needs the package {package}, which is not installed.",
            hint=f"pip install 'purifyctl[{extra}]'",
        )


class WeightsError(PurifyctlError):
    pass


class ImageError(PurifyctlError):
    """One input cannot be used. `status` is what its row gets."""

    def __init__(self, status: Status, message: str) -> None:
        super().__init__(message)
        self.status = status


class InputError(PurifyctlError, ValueError):
    pass


class TrainingError(PurifyctlError):
    pass


class BackendError(PurifyctlError):
    pass


class BusyError(PurifyctlError):
    pass


class OutputError(PurifyctlError):
    pass


class BundleError(PurifyctlError):
    pass


class ParityError(PurifyctlError):
    pass
