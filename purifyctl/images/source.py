"""Which files a job reads, in one fixed order."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

from purifyctl.errors import ConfigError


@dataclass(frozen=True)
class ImageFile:
    """One input: where it lies, and its path relative to the source, by which every result names it."""

    file: Path
    path: PurePosixPath


def list_images(
    source: Path, *, include: Sequence[str] = (), exclude: Sequence[str] = (), skip_folder: Path | None = None
) -> list[ImageFile]:
    """Every file of a folder tree (or the one file `source`), sorted by path.

    A file need not look like an image: what it is shows when it is read, and it gets its row either way. Hidden files
    and folders (leading dot) are left out; links to folders are not followed.

    Parameters
    ----------
    include, exclude
        Globs on the relative path, such as `*.jpg` or `cats/*`; `*` also matches slashes. Without `include`
        everything is included.
    skip_folder
        A folder that is not entered: the job's own output, should it lie inside the source.

    Raises
    ------
    ConfigError
        The source does not exist, cannot be listed, or holds no files.
    """
    if source.is_file():
        return [ImageFile(source, PurePosixPath(source.name))]
    if not source.is_dir():
        raise ConfigError(f"There is no folder or file {source}.", hint="check SRC")
    skip = skip_folder.resolve() if skip_folder else None
    found = [
        ImageFile(file, path)
        for file in _walk(source, skip)
        for path in [PurePosixPath(file.relative_to(source))]
        if (not include or any(fnmatchcase(str(path), g) for g in include))
        and not any(fnmatchcase(str(path), g) for g in exclude)
    ]
    if not found:
        filtered = " that --include and --exclude leave" if include or exclude else ""
        raise ConfigError(f"{source} holds no files{filtered}.", hint="check SRC and the globs")
    return sorted(found, key=lambda image: os.fsencode(image.path))


def _walk(folder: Path, skip: Path | None) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise ConfigError(f"The folder {error.filename} cannot be listed: {error.strerror}.") from None

    for parent, folders, files in os.walk(folder, onerror=refuse):
        here = Path(parent)
        folders[:] = [f for f in folders if not f.startswith(".") and (skip is None or (here / f).resolve() != skip)]
        yield from (here / f for f in files if not f.startswith("."))
