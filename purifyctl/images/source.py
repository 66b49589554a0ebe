"""Which files a job reads, in one fixed order."""

import os
import stat
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from purifyctl.errors import ConfigError, ImageError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".jp2", ".ppm", ".pgm")  # in tar shards
MAX_BYTES = 512 * 1024**2  # of one file; larger ones are no photographs


@dataclass(frozen=True)
class ImageFile:
    """One input: where it lies, and its path relative to the source, by which every result names it."""

    file: Path
    path: PurePosixPath
    span: tuple[int, int] | None = None  # first byte and length within `file`; None: the whole file

    @property
    def size(self) -> int:
        """Bytes; -1 of what is not there, such as the target of a broken link. It gets its row when it is read."""
        try:
            return self.span[1] if self.span else self.file.stat().st_size
        except OSError:
            return -1


def list_images(
    source: Path, *, include: Sequence[str] = (), exclude: Sequence[str] = (), skip_folder: Path | None = None
) -> list[ImageFile]:
    """Every file of a folder tree (or the one file `source`), sorted by path.

    A file need not look like an image: what it is shows when it is read, and it gets its row either way. So does a
    folder that cannot be listed. Hidden files and folders (leading dot) are left out; links to folders are not
    followed.

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
        ImageFile(file, PurePosixPath(path))
        for file, path in _walk(source, skip)
        if (not include or any(fnmatchcase(path, g) for g in include))
        and not any(fnmatchcase(path, g) for g in exclude)
    ]
    if not found:
        filtered = " that --include and --exclude leave" if include or exclude else ""
        raise ConfigError(f"{source} holds no files{filtered}.", hint="check SRC and the globs")
    return sorted(found, key=lambda image: os.fsencode(image.path))


def _walk(source: Path, skip: Path | None) -> Iterator[tuple[Path, str]]:
    """Files and unlistable folders, each with its path relative to the source; a folder's ends in a slash."""
    unlisted: list[Path] = []

    def on_error(error: OSError) -> None:
        if Path(error.filename) == source:
            raise ConfigError(f"The folder {source} cannot be listed: {error.strerror}.", hint="check SRC") from None
        unlisted.append(Path(error.filename))

    for parent, folders, files in os.walk(source, onerror=on_error):
        here = Path(parent)
        folders[:] = [f for f in folders if not f.startswith(".") and (skip is None or (here / f).resolve() != skip)]
        for name in files:
            if not name.startswith("."):
                yield here / name, (here / name).relative_to(source).as_posix()
    for folder in unlisted:
        yield folder, f"{folder.relative_to(source).as_posix()}/"


def list_tar_members(images: Sequence[ImageFile]) -> list[ImageFile]:
    """Put the images inside each uncompressed tar shard (`*.tar`) in its place.

    Members are named `SHARD/PATH`. They are read where they lie: nothing is unpacked. Members whose names do not end
    like an image's, such as the labels beside each image in many shards, are left out; so are hidden ones.

    Raises
    ------
    ConfigError
        A shard cannot be read.
    """
    found: list[ImageFile] = []
    for image in images:
        if image.path.suffix != ".tar":
            found.append(image)
            continue
        try:
            with tarfile.open(image.file, "r:") as shard:
                inside = {member.name.lstrip("/"): member for member in shard if member.isfile()}  # the last one counts
        except (OSError, tarfile.TarError) as error:
            raise ConfigError(
                f"The shard {image.file} cannot be read: {error}.", hint="shards are uncompressed tar files"
            ) from None
        found += [
            ImageFile(image.file, image.path / name, (member.offset_data, member.size))
            for name, member in inside.items()
            if PurePosixPath(name).suffix.lower() in IMAGE_ENDINGS and not PurePosixPath(name).name.startswith(".")
        ]
    return found


def read_file(image: ImageFile, max_bytes: int = MAX_BYTES) -> NDArray[np.uint8]:
    """The bytes of one input.

    Raises
    ------
    ImageError
        With status "unreadable" (missing, no permission, not a regular file) or "too_large".
    """
    try:
        facts = image.file.stat()
        if not stat.S_ISREG(facts.st_mode):  # opening a pipe would wait for its writer for ever
            what = "a folder that cannot be listed" if stat.S_ISDIR(facts.st_mode) else "not a regular file"
            raise ImageError("unreadable", f"It is {what}.")
        start, size = image.span or (0, facts.st_size)
        if size > max_bytes:
            raise ImageError("too_large", f"The file has {size:,} bytes; {max_bytes:,} are allowed.")
        return np.fromfile(image.file, np.uint8, count=size, offset=start)
    except OSError as error:
        raise ImageError("unreadable", f"It cannot be read: {error.strerror or error}.") from None
