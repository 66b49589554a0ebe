"""Purified images in archives: one tar file for each part of the plan.

Until a part is finished, its images lie as files in a hidden folder beside the archives, so a run that is stopped loses
none of them. The archive appears by one rename, before the part's rows.
"""

import io
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Self

from purifyctl.errors import OutputError
from purifyctl.images.sink import IMAGES, printable


def archive_name(part: int) -> str:
    """The name of a part's archive in the images folder."""
    return f"{part:05d}.tar"


def waiting_place(output: PurePosixPath) -> PurePosixPath:
    """Where an image lies until its archive is written. `output`: images/00042.tar/cats/1.png."""
    images, archive, *inside = output.parts
    return PurePosixPath(images, f".{archive}.waiting", *inside)


def write_archive(out: Path, part: int, outputs: Iterable[PurePosixPath], *, temporary: Path) -> None:
    """Write a part's archive: these images, in this order. The same images give the same bytes.

    An image lies where it waits, or in an earlier version of the archive.

    Parameters
    ----------
    temporary
        Folder to write in first, on the same file system.

    Raises
    ------
    OutputError
        An image is in neither place.
    OSError
        The archive cannot be written.
    """
    file, unfinished = out / IMAGES / archive_name(part), temporary / archive_name(part)
    try:
        with tarfile.open(unfinished, "w") as new, _Earlier(file) as earlier:
            for output in outputs:
                waiting, name = out / waiting_place(output), str(PurePosixPath(*output.parts[2:]))
                data = waiting.read_bytes() if waiting.exists() else earlier.read(name)
                if data is None:
                    raise OutputError(
                        f"{printable(output)} has been written, and is gone.",
                        hint=f"remove {out / 'rows'}/*-{part:05d}.parquet, and give the same command again",
                    )
                member = tarfile.TarInfo(name)  # no times, no owners
                member.size = len(data)
                new.addfile(member, io.BytesIO(data))
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)  # rows may need the room


class _Earlier:
    """An earlier version of an archive. It is opened when something in it is needed."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._tar: tarfile.TarFile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._tar is not None:
            self._tar.close()

    def read(self, name: str) -> bytes | None:
        """A member's bytes. None: there is no such member, or the archive is damaged."""
        try:
            self._tar = self._tar or tarfile.open(self._file, "r:")  # noqa: SIM115
            stream = self._tar.extractfile(name)
        except (FileNotFoundError, KeyError, tarfile.TarError):
            return None
        return stream.read() if stream else None


def remove_waiting(out: Path, part: int) -> None:
    """Remove the images that waited for an archive which is written, and whose rows are committed."""
    shutil.rmtree(out / waiting_place(PurePosixPath(IMAGES, archive_name(part))), ignore_errors=True)


def read_image(out: Path, output: PurePosixPath) -> bytes:
    """The file that a run made from one input: from its tree, from an archive, or from where it waits for one.

    Raises
    ------
    OSError
        It is not there.
    """
    archive = out / PurePosixPath(*output.parts[:2])
    if not (archive.suffix == ".tar" and len(output.parts) > 2) or archive.is_dir():
        return (out / output).read_bytes()
    if not archive.is_file():
        return (out / waiting_place(output)).read_bytes()
    with _Earlier(archive) as tar:
        if (data := tar.read(str(PurePosixPath(*output.parts[2:])))) is None:
            raise FileNotFoundError(output)
        return data
