"""Tar archives as inputs: their members are read where they lie, and nothing is unpacked."""

import os
import posixpath
import tarfile
from collections.abc import Iterator
from functools import partial

from purifyctl.config.kinds import HEADER_BYTES, ending_of
from purifyctl.sources.choice import SYSTEM_FOLDERS, Choice
from purifyctl.sources.source import Found, Tree


def members(tree: Tree, file: bytes, path: bytes, choice: Choice) -> Iterator[Found]:
    """The inputs in an archive, sorted: the files that would be inputs if it were unpacked. If two have the same name,
    the last one counts, as it does when tar unpacks it. A link to another member stands for that member.

    If the archive is damaged, the first input stands for the damage, and the members that can be read follow.
    """
    inside: dict[bytes, Found] = {}
    headers: dict[bytes, bytes] = {}  # of members whose names say nothing
    links: dict[bytes, bytes] = {}
    problem = ""
    try:
        with tree.open(file) as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                name = _plain(member.name)
                if member.isdir() or _is_hidden(name):
                    continue
                found = Found(b"%s/%s" % (path, name), file, member.offset_data, member.size)
                found = found._replace(stamp=f"{member.size} {member.mtime}")
                links.pop(name, None)
                headers.pop(name, None)
                if b".." in name.split(b"/"):
                    found = found._replace(problem="Its name leads out of the archive.")
                elif member.issym() or member.islnk():
                    links[name] = _target(name, member)
                    found = found._replace(problem="It is a link to something that is not in the archive.")
                elif not member.isfile():
                    found = found._replace(problem="It is no file, but a device.")
                elif not ending_of(name):
                    stream.seek(member.offset_data)
                    headers[name] = stream.read(min(member.size, HEADER_BYTES))
                inside[name] = found
            stream.seek(archive.offset)
            if stream.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                problem = "The archive has no end: it was cut short."
    except (OSError, tarfile.TarError) as error:
        problem = f"The archive cannot be read{' to its end' if inside else ''}: {error}."
    if problem:
        yield Found(path + b"/", file, problem=problem)
    for name in sorted(inside):
        found, end = inside[name], _end_of(links, name)
        if end in inside and end != name:
            target = inside[end]
            found = target._replace(path=found.path)
        is_named = end in inside and not found.problem and end not in headers  # a link to something with an ending
        if choice.takes(found.path, partial(headers.get, end, None if is_named else b"")):
            yield found


def _plain(name: str) -> bytes:
    """One spelling for each name."""
    plain = os.fsencode(name.lstrip("/"))
    return plain if b".." in plain.split(b"/") else os.path.normpath(plain)


def _is_hidden(name: bytes) -> bool:
    """Whether the member would not be listed if the archive were unpacked."""
    parts = name.split(b"/")
    return any(part.startswith(b".") and part != b".." for part in parts) or not SYSTEM_FOLDERS.isdisjoint(parts[:-1])


def _target(name: bytes, member: tarfile.TarInfo) -> bytes:
    """The name of the member that a link leads to."""
    if member.islnk():
        return _plain(member.linkname)
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), os.fsencode(member.linkname)))


def _end_of(links: dict[bytes, bytes], name: bytes) -> bytes:
    """Where a chain of links ends. A circle ends where it began."""
    seen = set()
    while name in links and name not in seen:
        seen.add(name)
        name = links[name]
    return name
