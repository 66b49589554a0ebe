"""Every failure that a user can repair, as one tree.

    PurifyctlError              exit code 1; the message has cause, file and next step
    ├── ConfigError             exit code 2; a recipe, a flag or a source that cannot work
    ├── MissingDependencyError  an optional package is not installed
    ├── WeightsError            weights cannot be downloaded, read, or loaded into their network
    ├── ImageError              one image cannot be read; carries the status its row gets
    ├── InputError              a Python function got images of a wrong shape, type or range; also a ValueError
    ├── TrainingError           a training cannot continue
    ├── BackendError            an inference library or device refuses
    ├── BusyError               another call is at work, or a server does not answer; a later try may succeed
    ├── OutputError             results cannot be written: a full or read-only disk
    ├── BundleError             an engine bundle is damaged, foreign, or does not fit
    └── ParityError             an engine does not agree with its torch reference

Any other exception that leaves the program is a bug and keeps its traceback.
"""

from typing import Any, Literal

from purifyctl.visible import visible

Status = Literal[
    "ok",
    "unreadable",  # the file cannot be opened or read
    "bad_archive",  # an archive that is damaged or cannot be read: a row beside those of its members
    "empty",  # zero bytes
    "not_an_image",  # no image header
    "unsupported_format",  # an image of a format that is not decoded here
    "too_large",  # more pixels than allowed, or too many passes over them
    "decode_failed",  # damaged or cut short
    "crashed",  # the process that decodes or works died with it twice, the second time with nothing else in hand
    "timeout",  # it took longer than --image-timeout twice, the second time with nothing else in hand
    "write_failed",  # the purified image could not be written
]


class PurifyctlError(Exception):
    """An expected failure. `str(error)` says what happened, where, and what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        """`message`: cause and file. `hint`: the next step, a command where there is one.

        Both may hold names and texts from strangers, so each is kept as one visible line: tracebacks print them, too.
        """
        self.message, self.hint = visible(message), visible(hint)
        super().__init__(self.message)

    def __reduce__(self) -> tuple[Any, ...]:
        """An error can be sent to another process, whatever parameters its subclass has."""
        return _made_again, (type(self), self.message, self.hint), self.__dict__

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
    """One input cannot be used. `status` goes into its row."""

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
