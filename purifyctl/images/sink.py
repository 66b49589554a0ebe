"""The output folder of a command."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from purifyctl.errors import ConfigError
from purifyctl.files import write_json

IMAGES = "images"  # the folder in every output that holds the mirrored tree


def prepare_output(
    source: Path | None, out: Path, *, makes: Sequence[str], marker: str, settings: Mapping[str, Any], overwrite: bool
) -> None:
    """Make a command's output folder. It removes only what an earlier call of the command made, and never an input.

    Parameters
    ----------
    source
        None: the source is not on this machine.
    makes
        Names of all other files and folders that the command makes in `out`, besides `IMAGES`. They are removed in
        this order, then the images, then the marker: a file that says that others are complete goes first.
    marker
        File that marks the folder as the command's own; it gets `settings` as JSON.
    overwrite
        Remove what an earlier call made; False: refuse if something is there.

    Raises
    ------
    ConfigError
        `out` would overwrite the source, holds something, or cannot be written to.
    """
    check_apart(source, out)
    earlier = [path for path in (out / name for name in (*makes, IMAGES, marker)) if path.exists()]
    if earlier and not (out / marker).exists():
        raise ConfigError(f"{earlier[0]} exists, and no run of purifyctl made it.", hint="choose another --out")
    if earlier and not overwrite:
        raise ConfigError(
            f"{out} holds the results of an earlier run.", hint="choose another --out, or pass --on-existing overwrite"
        )
    try:
        for path in earlier:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / marker, settings)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written to: {error.strerror}.", hint="check --out") from None


def check_apart(source: Path | None, out: Path) -> None:
    """Raises ConfigError if `out` would overwrite the source. None: the source is not on this machine."""
    if source is None:
        return
    inputs, images = source.resolve(), (out / IMAGES).resolve()
    if inputs == out.resolve() or inputs == images or images in inputs.parents:
        raise ConfigError(
            f"The output {out} would overwrite the input {source}.", hint="choose an --out that SRC does not lie in"
        )


def printable(path: PurePosixPath) -> str:
    """A path as text that any file format takes: bytes that are not UTF-8 are written as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
