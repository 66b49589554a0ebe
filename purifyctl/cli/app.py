"""The application that commands register with, its own options, and how failures are reported."""

import os
import sys
import traceback
from typing import Annotated, Any

import typer

from purifyctl import __version__, console
from purifyctl.errors import PurifyctlError
from purifyctl.files import NO_ROOM
from purifyctl.machine import keep_freed_memory, name_the_user
from purifyctl.visible import visible

app = typer.Typer(
    name="purifyctl",
    help="Put a purification layer in front of an image classifier.",
    epilog="Examples: purifyctl demo · purifyctl run photos --out clean · purifyctl report clean\n\n"
    "Exit codes: 0 ok · 1 failed · 2 usage or configuration · 3 finished, some inputs failed · 130 interrupted",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_debug = False


def _version(value: bool) -> None:
    if value:
        console.raw(f"purifyctl {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of expected errors.")] = False,
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    global _debug
    _debug = debug


def main() -> None:
    """Entry point. An expected failure becomes one message and an exit code. A bug keeps its traceback."""
    sys.exit(_call())


def _call() -> int:
    """Call the command that was typed. Returns the exit code."""
    keep_freed_memory()
    name_the_user()
    try:
        return int(app(standalone_mode=False) or 0)
    except typer.Abort:
        console.error("Aborted.")
        return 1
    except PurifyctlError as error:
        if _debug:
            console.trace(traceback.format_exc())
        console.error(error.message, error.hint)
        return error.exit_code
    except Exception as error:
        if hasattr(error, "format_message"):  # typer's: its class lies elsewhere in each version
            return _refuse(error)
        is_state = isinstance(error, OSError) and (error.filename is not None or error.errno in NO_ROOM)
        if _debug or not is_state:
            console.trace(traceback.format_exc())
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            what = f"{error.filename or 'A file'} cannot be written: {os.strerror(error.errno)}."
            console.error(what, "make room, and give the same command again")
        elif isinstance(error, OSError):  # a missing permission is the machine's state, not a bug
            console.error(f"{error.filename or 'The operating system'}: {error.strerror or error}.")
        return 1


def _refuse(error: Any) -> int:
    """Say what was typed wrong, as typer does. It quotes what was typed: a shell types names of files for `*`."""
    from typer.rich_utils import rich_format_error

    error.message = visible(error.message)
    rich_format_error(error)
    return int(error.exit_code)
