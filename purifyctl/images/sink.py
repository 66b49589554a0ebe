"""What a job makes onto disk: a mirrored tree in which no two inputs share a name, written atomically."""

import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from purifyctl.errors import ConfigError
from purifyctl.files import write_json
from purifyctl.images.encode import EXTENSIONS

IMAGES = "images"  # the folder of every job's output that holds the mirrored tree


def prepare_output(
    source: Path, out: Path, *, makes: Sequence[str], marker: str, settings: Mapping[str, Any], overwrite: bool
) -> None:
    """Make a job's output folder. Only what an earlier such job made is ever removed, and never an input.

    Parameters
    ----------
    makes
        Names of all other files and folders that the job makes in `out`, besides `IMAGES`.
    marker
        File that marks the folder as the job's own; `settings` are written to it as JSON.
    overwrite
        Remove what an earlier job made; otherwise its being there is refused.

    Raises
    ------
    ConfigError
        `out` would overwrite the source, holds something, or cannot be written to.
    """
    inputs, images = source.resolve(), (out / IMAGES).resolve()
    if inputs == out.resolve() or inputs == images or images in inputs.parents:
        raise ConfigError(
            f"The output {out} would overwrite the input {source}.", hint="choose an --out that SRC does not lie in"
        )
    earlier = [path for path in (out / name for name in (IMAGES, *makes, marker)) if path.exists()]
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


def output_paths(paths: Sequence[PurePosixPath], image_format: str) -> list[PurePosixPath]:
    """Where the image made of each input goes, relative to the images folder. Never the same for two inputs.

    `cats/1.png` keeps its name when PNG is written; `cats/1.jpg` becomes `cats/1.jpg.png`, so that it stays apart
    from a `cats/1.png` beside it. Should that name be taken too, the ending is added once more.
    """
    endings = EXTENSIONS[image_format]
    kept: dict[PurePosixPath, set[str]] = defaultdict(set)
    for folder in {folder for path in paths for folder in path.parents}:
        kept[folder.parent].add(folder.name)  # a folder's name is taken too
    for path in paths:
        if path.suffix.lower() in endings:
            kept[path.parent].add(path.name)
    outputs = []
    for path in paths:
        name = path.name
        taken = kept[path.parent]
        if path.suffix.lower() not in endings:
            name += endings[0]
            while name in taken:
                name += endings[0]
            taken.add(name)
        outputs.append(path.with_name(name))
    return outputs


def printable(path: PurePosixPath) -> str:
    """A path as text that any file format takes: bytes that are no UTF-8 are written as \\xNN."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
