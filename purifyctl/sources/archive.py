"""Tar archives as inputs: their members are read where they lie, and nothing is unpacked."""

import os
import posixpath
from collections.abc import Iterator
from functools import partial
from typing import BinaryIO, NamedTuple

from purifyctl.config.kinds import HEADER_BYTES, ending_of
from purifyctl.sources.choice import SYSTEM_FOLDERS, Choice
from purifyctl.sources.source import Found, Tree
from purifyctl.sources.tar import Member, TarHeaders

HELD_BYTES = 768 << 20  # of an archive's members while they are sorted: about two millions
MEMBER_BYTES = 300  # that one takes, besides its names
LINKS = 40  # that lead from one to the next; Linux follows as many


class _Inside(NamedTuple):
    start: int
    size: int
    mtime: int
    problem: str
    header: bytes | None  # the first bytes; None: its name says that it is a picture
    target: bytes  # of a link


def members(tree: Tree, file: bytes, path: bytes, choice: Choice) -> Iterator[Found]:
    """The inputs in an archive, sorted: the files that would be inputs if it were unpacked. If two have the same name,
    the last one counts, as it does when tar unpacks it. A link to another member stands for that member.

    If the archive is damaged, the first input stands for the damage, and the members that can be read follow.
    """
    inside: dict[bytes, _Inside] = {}
    problem, held = "", 0
    try:
        with tree.open(file) as stream:
            headers = TarHeaders(stream)
            for member in headers:
                name = _plain(member.name)
                if member.kind == "folder" or _is_hidden(name):
                    continue
                inside[name] = one = _inside(name, member, stream)
                held += MEMBER_BYTES + len(name) + len(one.target) + len(one.header or b"")
                if held > HELD_BYTES:
                    problem = f"It has too many members: those behind byte {member.start:,} are left out."
                    break
            problem = problem or headers.problem
    except OSError as error:
        problem = f"It cannot be read{' to its end' if inside else ''}: {error.strerror or error}."
    if problem:
        yield Found(path + b"/", file, problem=problem, status="bad_archive")
    for name in sorted(inside):
        one = inside.get(_end_of(inside, name), inside[name])
        found = Found(b"%s/%s" % (path, name), file, one.start, one.size, one.problem, stamp=f"{one.size} {one.mtime}")
        if choice.takes(found.path, partial(getattr, one, "header")):
            yield found


def _inside(name: bytes, member: Member, stream: BinaryIO) -> _Inside:
    problem, target = member.problem, b""
    header = None if ending_of(name) else b""
    if b".." in name.split(b"/"):
        problem = "Its name leads out of the archive."
    elif member.kind in ("symbolic link", "hard link"):
        target = _target(name, member)
        problem = "It is a link to something that is not in the archive."
    elif member.kind != "file":
        problem = "It is no file, but a device."
    elif not problem and header is not None:
        stream.seek(member.start)
        header = stream.read(min(member.size, HEADER_BYTES))
    return _Inside(member.start, member.size, member.mtime, problem, header, target)


def _plain(name: bytes) -> bytes:
    """One spelling for each name."""
    name = name.lstrip(b"/")
    return name if b".." in name.split(b"/") else os.path.normpath(name)


def _is_hidden(name: bytes) -> bool:
    """Whether the member would not be listed if the archive were unpacked."""
    parts = name.split(b"/")
    return any(part.startswith(b".") and part != b".." for part in parts) or not SYSTEM_FOLDERS.isdisjoint(parts[:-1])


def _target(name: bytes, member: Member) -> bytes:
    """The name of the member that a link leads to."""
    if member.kind == "hard link":
        return _plain(member.target)
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), member.target))


def _end_of(inside: dict[bytes, _Inside], name: bytes) -> bytes:
    """Where a chain of links ends. A circle ends anywhere in it."""
    for _ in range(LINKS):
        if name not in inside or not inside[name].target:
            break
        name = inside[name].target
    return name
