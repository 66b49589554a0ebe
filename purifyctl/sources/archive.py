"""Tar archives as inputs: their members are read where they lie, and nothing is unpacked."""

import os
import tarfile
from collections.abc import Iterator
from pathlib import PurePosixPath

from purifyctl.sources.source import Found, Tree

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".jp2", ".ppm", ".pgm")


def members(tree: Tree, file: bytes, path: bytes) -> Iterator[Found]:
    """The images in an archive, sorted. If two have the same name, the last one counts, as it does when tar unpacks it.

    If the archive is damaged, the first input stands for the damage, and the members that can be read follow.
    """
    inside: dict[bytes, Found] = {}
    problem = ""
    try:
        with tree.open(file) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                name = os.fsencode(member.name.lstrip("/"))
                if b".." not in name.split(b"/"):
                    name = os.path.normpath(name)  # one spelling for each
                last = PurePosixPath(os.fsdecode(name)).name
                if member.isdir() or last.startswith(".") or not last.lower().endswith(IMAGE_ENDINGS):
                    continue
                found = Found(b"%s/%s" % (path, name), file, member.offset_data, member.size)
                if b".." in name.split(b"/"):
                    found = found._replace(problem="Its name leads out of the archive.")
                elif not member.isfile():
                    found = found._replace(problem="It is no file, but a link or a device.")
                inside[name] = found
            stream.seek(archive.offset)
            if stream.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                problem = "The archive has no end: it was cut short."
    except (OSError, tarfile.TarError) as error:
        problem = f"The archive cannot be read{' to its end' if inside else ''}: {error}."
    if problem:
        yield Found(path + b"/", file, problem=problem)
    yield from (inside[name] for name in sorted(inside))
