"""The application that commands register with, its own options, and how failures are reported."""

import sys
import traceback
from typing import Annotated

import typer

from purifyctl import __version__, console
from purifyctl.errors import PurifyctlError
from purifyctl.machine import keep_freed_memory, name_the_user

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
    keep_freed_memory()
    name_the_user()
    try:
        app()
    except PurifyctlError as error:
        if _debug:
            traceback.print_exc()
        console.error(str(error))
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk or a missing permission is the machine's state, not a bug
        if _debug or error.filename is None:
            traceback.print_exc()
        console.error(f"{error.filename or 'The operating system'}: {error.strerror or error}.")
        sys.exit(1)
