"""Purified images in tar shards: one archive for each shard of the plan.

Until a shard is finished its images lie in a hidden folder beside the archives, as files, so that a run that is stopped
loses none. The archive appears by one rename, before the shard's rows.
"""

import shutil
import tarfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path, PurePosixPath

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
    with ExitStack() as stack:
        new = stack.enter_context(tarfile.open(part, "w"))
        earlier = stack.enter_context(tarfile.open(file, "r:")) if file.exists() else None
        for output in outputs:
            member = tarfile.TarInfo(str(PurePosixPath(*output.parts[2:])))  # no times, no owners
            waiting = out / waiting_place(output)
            try:
                if waiting.exists():
                    member.size = waiting.stat().st_size
                    with waiting.open("rb") as stream:
                        new.addfile(member, stream)
                elif earlier is not None:
                    known = earlier.getmember(member.name)
                    member.size = known.size
                    new.addfile(member, earlier.extractfile(known))
                else:
                    raise KeyError
            except KeyError:
                raise OutputError(
                    f"{printable(output)} has been written, and is gone.",
                    hint=f"remove {out / 'rows'}/kept-{shard:05d}.parquet, and give the same command again",
                ) from None
    part.replace(file)


def clear(out: Path, shard: int) -> None:
    """Remove what waited for an archive that is written, and whose rows are committed."""
    shutil.rmtree(out / waiting_place(PurePosixPath(IMAGES, archive(shard))), ignore_errors=True)


def read_image(out: Path, output: PurePosixPath) -> bytes:
    """The file that a run made of one input, from its tree, from an archive, or from where it waits for one.

    Raises
    ------
    OSError, tarfile.TarError, KeyError
        It is not there.
    """
    its_archive = out / PurePosixPath(*output.parts[:2])
    if not (its_archive.suffix == ".tar" and len(output.parts) > 2) or its_archive.is_dir():
        return (out / output).read_bytes()
    if not its_archive.is_file():
        return (out / waiting_place(output)).read_bytes()
    with tarfile.open(its_archive, "r:") as tar:
        stream = tar.extractfile(str(PurePosixPath(*output.parts[2:])))
        assert stream is not None  # only files are packed
        return stream.read()
