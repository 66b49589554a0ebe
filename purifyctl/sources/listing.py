"""The inputs of a tree: a stream in one fixed order, that of their paths byte by byte, never all in memory."""

import heapq
import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from purifyctl.errors import ConfigError
from purifyctl.sources.archive import members
from purifyctl.sources.choice import SYSTEM_FOLDERS, Choice
from purifyctl.sources.file_list import listed_paths, split
from purifyctl.sources.source import Found, Tree


def find_inputs(tree: Tree, choice: Choice, *, files_from: Path | None = None) -> Iterator[Found]:
    """Every picture of a tree (or the one file that it is), sorted by path; for archives, every picture inside.

    `choice` says what a picture is. A folder that cannot be listed gets a row, too. Links to folders are followed,
    except those that lead to a folder which is listed anyway. Hidden files and folders (leading dot) are left out, and
    so are folders of systems, such as `@eaDir`, and of runs.

    Members of an uncompressed tar archive (`*.tar`) are named `ARCHIVE/PATH`. They count as if it were unpacked.

    Parameters
    ----------
    files_from
        A list of paths in the tree, which is then not listed. See `file_list`. What it names is an input whatever its
        content; a file that is not there gets its row when it is read.

    Raises
    ------
    ConfigError
        The root or the list does not exist or cannot be read.
    """
    return _all(tree, choice) if files_from is None else _listed(files_from, tree, choice)


def _all(tree: Tree, choice: Choice) -> Iterator[Found]:
    if tree.is_folder():
        yield from _walk(tree, choice)
    elif tree.root_name.endswith(b".tar"):
        yield from members(tree, tree.root, tree.root_name, choice)
    elif choice.takes(tree.root_name, None):
        yield Found(tree.root_name, tree.root, stamp=tree.stamp(tree.root))


def _walk(tree: Tree, choice: Choice) -> Iterator[Found]:
    """Depth first. The entries of each folder are sorted by what they add to paths: a folder's name with its slash."""
    try:
        levels = [tree.entries(tree.root, b"")]
    except OSError as error:
        raise ConfigError(
            f"{os.fsdecode(tree.root)} cannot be listed: {error.strerror or error}.",
            hint="check the path, and what lets you read it",
        ) from None
    while levels:
        for found in levels[-1]:
            if found.problem or not found.path.endswith(b"/"):
                if choice.takes(found.path, None if found.problem else partial(tree.header, found)):
                    yield found
            elif tree.is_archive(found):
                yield from members(tree, found.file, found.path[:-1], choice)
            elif why := _why_not(tree, found):
                choice.left_out.add(why, found.path)
            else:
                try:
                    levels.append(tree.entries(found.file, found.path))
                except OSError as error:
                    if choice.takes(found.path, None):
                        why = f"It is a folder that cannot be listed: {error.strerror or error}."
                        yield found._replace(problem=why)
                else:
                    break  # into it
        else:
            levels.pop()


def _why_not(tree: Tree, folder: Found) -> str:
    if folder.path.split(b"/")[-2] in SYSTEM_FOLDERS:
        return "folders of systems"
    return tree.why_not(folder)


def _listed(file: Path, tree: Tree, choice: Choice) -> Iterator[Found]:
    """The files that a list names, sorted."""
    for path, _ in itertools.groupby(sorted_lines(listed_paths(file, tree))):
        place = tree.place(path.rstrip(b"/"))
        if path.endswith(b".tar/"):
            yield from members(tree, place, path[:-1], choice)
        elif choice.takes(path, None):
            yield Found(path, place, stamp=tree.stamp(place))


def sorted_lines(lines: Iterator[bytes], in_memory: int = 1_000_000) -> Iterator[bytes]:
    """Sort any number of lines without NUL bytes. It holds `in_memory` of them at a time; the others wait on disk."""
    with ExitStack() as stack:
        runs: list[Iterator[bytes]] = []
        while group := sorted(itertools.islice(lines, in_memory)):
            if len(group) < in_memory:
                runs.append(iter(group))
                break
            spilled = stack.enter_context(tempfile.TemporaryFile())
            spilled.write(b"\0".join(group))
            spilled.seek(0)
            runs.append(split(spilled, b"\0"))
        yield from heapq.merge(*runs)
