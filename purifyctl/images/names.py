"""The names of images that are made from inputs: a mirrored tree in which no two inputs share a name."""

import itertools
import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import PurePosixPath

from purifyctl.config.formats import FORMAT, FORMATS, ImageFormat, format_of
from purifyctl.config.kinds import ending_of


@dataclass(frozen=True)
class Naming:
    """How inputs' names become outputs' names."""

    image_format: ImageFormat
    keep: bool = False  # an input in a format that can be written is written in its own format, under its own name

    def keeps(self, path: bytes) -> bool:
        """Whether an output of this name would be written in the format that its ending says."""
        return path.lower().endswith(self._kept)

    def plain(self, path: bytes) -> bytes:
        """The name that an image gets if no other one would get it: `cat.png` for `cat.jpg`."""
        return path if self.keeps(path) else path.removesuffix(ending_of(path)) + self.ending

    @cached_property
    def ending(self) -> bytes:
        return FORMAT[self.image_format].endings[0].encode()

    @cached_property
    def _kept(self) -> tuple[bytes, ...]:
        formats = FORMATS if self.keep else (FORMAT[self.image_format],)
        return tuple(ending.encode() for each in formats for ending in each.endings)


def name_outputs(inputs: Iterable[tuple[bytes, bytes | None]], naming: Naming) -> Iterator[bytes]:
    """The name of the image that is made from each input, relative to the images folder. No two inputs get the same
    name, and no image gets the name of a folder.

    `cats/1.jpg` becomes `cats/1.png`. If two inputs would get one name, each keeps its own name with one more ending:
    `cats/1.jpg.png` and `cats/1.webp.png`; but a `cats/1.png` beside them keeps its name. If that name is taken, too,
    the ending is added once more.

    Parameters
    ----------
    inputs
        The path of each input, in order, without repeats; and the name of its image, if it has one from an earlier
        time. Such names stay, and no other image gets them.
        Images can only share a name if their inputs' names are the same up to the first dot, and such inputs follow
        each other closely: the function reads only so far ahead.
    """
    ahead: deque[tuple[bytes, bytes | None]] = deque()
    named: dict[bytes, bytes] = {}  # inputs ahead that have got their names
    passed: dict[bytes, bytes] = {}  # folders behind that are called like images, and the last path that may want this
    open_groups: dict[bytes, bytes] = {}  # groups whose members have names, and the path after which there are no more
    coming = iter(inputs)
    while first := (ahead[0] if ahead else next(coming, None)):
        if not ahead:
            ahead.append(first)
        path, name = first
        folder = path[: path.rfind(b"/") + 1]
        if open_groups or passed or _folders_like_images(folder):
            open_groups = {group: limit for group, limit in open_groups.items() if path <= limit}
            passed = {folder: limit for folder, limit in passed.items() if path <= limit}
            passed |= {each: _group(each) + b"/" for each in _folders_like_images(folder)}
        group = _group(path)
        if group not in open_groups:
            limit = group + b"/"
            while ahead[-1][0] <= limit and (following := next(coming, None)):
                ahead.append(following)
            if len(ahead) > 1 and ahead[1][0] <= limit:
                open_groups[group] = limit
                named |= _named(*_window(ahead, group, limit, set(passed)), naming)
            elif name is None:  # nearly all are alone in their groups
                named |= _named([first], set(passed), naming) if passed else {path: naming.plain(path.rstrip(b"/"))}
        ahead.popleft()
        yield named.pop(path) if name is None else name


def _window(
    ahead: Iterable[tuple[bytes, bytes | None]], group: bytes, limit: bytes, folders: set[bytes]
) -> tuple[list[tuple[bytes, bytes | None]], set[bytes]]:
    """The members of a group, and the folders whose names an image of this group could want."""
    members = []
    for other, made in itertools.takewhile(lambda one: one[0] <= limit, ahead):
        if _group(other) == group:
            members.append((other, made))
        elif other.startswith(group + b"."):
            folders.add(other[: other.index(b"/", len(group))])
    return members, folders


def _group(path: bytes) -> bytes:
    """The path up to the first dot of the file's name."""
    path = path.rstrip(b"/")
    dot = path.find(b".", path.rfind(b"/") + 1)
    return path if dot < 0 else path[:dot]


@lru_cache(maxsize=16)  # paths come folder by folder
def _folders_like_images(folder: bytes) -> list[bytes]:
    """Those of a folder and the folders above it whose names an image could want."""
    ends = [i for i, byte in enumerate(folder) if byte == ord("/")]
    return [folder[:end] for end in ends if format_of(os.fsdecode(folder[:end]))]


def _named(members: Sequence[tuple[bytes, bytes | None]], folders: set[bytes], naming: Naming) -> dict[bytes, bytes]:
    """Names for those inputs of a group that have none."""
    taken = folders | {made for _, made in members if made is not None}
    new = [path for path, made in members if made is None]
    plain = {path: naming.plain(path.rstrip(b"/")) for path in new}
    wanted_by = Counter(plain.values())
    named = {}
    for path in new:  # those whose own name is an output's name come first
        if plain[path] not in taken and (plain[path] == path or wanted_by[plain[path]] == 1):
            named[path] = plain[path]
    taken |= set(named.values())
    for path in new:
        if path not in named:
            name = path.rstrip(b"/") + naming.ending
            while name in taken:
                name += naming.ending
            named[path] = name
            taken.add(name)
    return named


def output_paths(paths: Sequence[PurePosixPath], naming: Naming) -> list[PurePosixPath]:
    """`name_outputs` of paths in any order."""
    ordered = sorted(os.fsencode(path) for path in paths)
    outputs = dict(zip(ordered, name_outputs(((path, None) for path in ordered), naming), strict=True))
    return [PurePosixPath(os.fsdecode(outputs[os.fsencode(path)])) for path in paths]
