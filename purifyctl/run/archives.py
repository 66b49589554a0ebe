"""Purified images in tar shards: one archive for each shard of the plan.

Until a shard is finished its images lie in a hidden folder beside the archives, as files, so that a run that is stopped
loses none. The archive appears by one rename, before the shard's rows.
"""

import io
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Self

from purifyctl.errors import OutputError
from purifyctl.images.sink import IMAGES, printable


def archive(shard: int) -> str:
    """Its name, in the images folder."""
    return f"{shard:05d}.tar"


def waiting_place(output: PurePosixPath) -> PurePosixPath:
    """Where an image lies until its archive is written. `output`: images/00042.tar/cats/1.png."""
    images, its_archive, *inside = output.parts
    return PurePosixPath(images, f".{its_archive}.waiting", *inside)


def pack(out: Path, shard: int, outputs: Iterable[PurePosixPath], *, temporary: Path) -> None:
    """Write a shard's archive: these images, in this order, from where they wait or from the archive's earlier edition.

    The same images give the same bytes.

    Parameters
    ----------
    temporary
        Folder to write in first, of the same file system.

    Raises
    ------
    OutputError
        An image is in neither.
    OSError
        The archive cannot be written.
    """
    file, part = out / IMAGES / archive(shard), temporary / archive(shard)
    try:
        with tarfile.open(part, "w") as new, _Earlier(file) as earlier:
            for output in outputs:
                waiting, name = out / waiting_place(output), str(PurePosixPath(*output.parts[2:]))
                data = waiting.read_bytes() if waiting.exists() else earlier.read(name)
                if data is None:
                    raise OutputError(
                        f"{printable(output)} has been written, and is gone.",
                        hint=f"remove {out / 'rows'}/*-{shard:05d}.parquet, and give the same command again",
                    )
                member = tarfile.TarInfo(name)  # no times, no owners
                member.size = len(data)
                new.addfile(member, io.BytesIO(data))
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)  # rows may need the room


class _Earlier:
    """An archive's earlier edition, opened when something of it is wanted."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._tar: tarfile.TarFile | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._tar is not None:
            self._tar.close()

    def read(self, name: str) -> bytes | None:
        """A member; None: there is none, or the archive is damaged."""
        try:
            self._tar = self._tar or tarfile.open(self._file, "r:")  # noqa: SIM115
            stream = self._tar.extractfile(name)
        except (FileNotFoundError, KeyError, tarfile.TarError):
            return None
        return stream.read() if stream else None


def clear(out: Path, shard: int) -> None:
    """Remove what waited for an archive that is written, and whose rows are committed."""
    shutil.rmtree(out / waiting_place(PurePosixPath(IMAGES, archive(shard))), ignore_errors=True)


def read_image(out: Path, output: PurePosixPath) -> bytes:
    """The file that a run made of one input, from its tree, from an archive, or from where it waits for one.

    Raises
    ------
    OSError
        It is not there.
    """
    its_archive = out / PurePosixPath(*output.parts[:2])
    if not (its_archive.suffix == ".tar" and len(output.parts) > 2) or its_archive.is_dir():
        return (out / output).read_bytes()
    if not its_archive.is_file():
        return (out / waiting_place(output)).read_bytes()
    with _Earlier(its_archive) as tar:
        if (data := tar.read(str(PurePosixPath(*output.parts[2:])))) is None:
            raise FileNotFoundError(output)
        return data
