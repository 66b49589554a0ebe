"""The true class of a picture: from the names of its folders, or from a file that says it."""

import csv
import functools
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from purifyctl import console
from purifyctl.config.truth import FOLDERS, NONE, PREDICTED, JudgedOptions
from purifyctl.errors import ConfigError
from purifyctl.files import file_sha256
from purifyctl.labels import Labels

_SHOWN = 3  # lines that a message names
_FILE_HEADS = ("file", "filename", "file_name", "path", "image", "image_id", "name")
_LABEL_HEADS = ("label", "class", "truth", "target", "category", "true", "class_name")


class Truth(Protocol):
    """Knows true classes."""

    where: str  # where they come from, for people

    def of(self, path: bytes) -> int | None:
        """The true class of the image at `path`, relative to the source, as bytes; None: it is not known."""
        ...

    def __call__(self, path: PurePosixPath) -> int | None:
        """As `of`."""
        ...


class TruthFromFolder:
    """Finds the true class of an image: a folder on its path is named after the class.

    A folder counts when its name is a WordNet id (`n01440764`), a class's name (`great white shark`) or its index
    (`10`). Case and punctuation do not matter. The folder nearest to the file wins. A name that two classes share
    ("crane") gives no class. A number in a folder that is a number, too, is a date.

    Parameters
    ----------
    source
        A folder on this machine. If nobody has named the classes, and it has as many folders as there are classes, none
        of them named after a class, then they stand for the classes in the order of their names, as in torchvision's
        `ImageFolder`.
    """

    def __init__(self, labels: Labels, source: Path | None = None) -> None:
        ordered = _in_order(labels, source)
        self._labels = ordered or labels
        self.where = "folders, in the order of their names" if ordered else "folder names"
        self._of_folder = functools.lru_cache(maxsize=1024)(self._find)

    def of(self, path: bytes) -> int | None:
        """The class of the nearest folder on this path that is named after one."""
        return self._of_folder(path.rpartition(b"/")[0])

    def __call__(self, path: PurePosixPath) -> int | None:
        """As `of`."""
        return self.of(os.fsencode(path))

    def _find(self, folder: bytes) -> int | None:
        names = os.fsdecode(folder).split("/")
        for i in reversed(range(len(names))):
            index = self._labels.find(names[i])
            if index is None:
                continue
            named = self._labels.names[index].casefold() == names[i].casefold()
            if named or not (names[i].isdecimal() and any(name.isdecimal() for name in names[:i])):
                return index
        return None


def _in_order(labels: Labels, source: Path | None) -> Labels | None:
    if not labels.names or not labels.are_numbers or source is None or not source.is_dir():
        return None
    folders = sorted(entry.name for entry in os.scandir(source) if entry.is_dir() and not entry.name.startswith("."))
    if len(folders) != len(labels.names) or any(labels.find(name) is not None for name in folders):
        return None
    return Labels(tuple(folders))


@dataclass
class TruthFromFile:
    """Knows the true classes that a CSV file gives: on each line a path, relative to the source, and a class.

    The first line may be a header (`file,label`); then its names say which column is which. Columns are parted by
    commas, semicolons or tabs.
    """

    file: Path
    labels: Labels
    where: str = ""
    _known: dict[bytes, tuple[int, int]] = field(default_factory=dict)  # class and line, by path
    _used: set[bytes] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.where = self.where or self.file.name
        unknown: list[tuple[int, str]] = []
        for line, path, label in _lines(self.file, self.labels):
            index = self.labels.find(label)
            if index is None:
                unknown.append((line, label))
                continue
            if self._known.setdefault(path, (index, line))[0] != index:
                first = self._known[path][1]
                raise ConfigError(f"{self.file} gives {path.decode()} two classes, in lines {first} and {line}.")
        if unknown:
            raise ConfigError(
                f"{self.file} names {len(unknown)} classes that the classifier does not have: {_shown(unknown)}.",
                hint="write names as --labels gives them, or indices from 0 to " + str(len(self.labels.names) - 1),
            )
        if not self._known:
            raise ConfigError(f"{self.file} gives no classes.", hint="write on each line: file,label")

    def of(self, path: bytes) -> int | None:
        """The class that the file gives this path."""
        found = self._known.get(path)
        if found is None:
            return None
        self._used.add(path)
        return found[0]

    def __call__(self, path: PurePosixPath) -> int | None:
        """As `of`."""
        return self.of(os.fsencode(path))

    def check_used(self) -> None:
        """Say which lines name no input, after all inputs were asked for.

        Raises
        ------
        ConfigError
            None of them does.
        """
        unused = [(line, path.decode()) for path, (_, line) in self._known.items() if path not in self._used]
        if len(unused) == len(self._known):
            raise ConfigError(
                f"{self.file} names no file of the source: {_shown(unused)}.",
                hint="paths are relative to the source, such as cats/1.jpg",
            )
        if unused:
            console.warn(f"{self.file} names {len(unused)} files that are no inputs: {_shown(unused)}.")


def _lines(file: Path, labels: Labels) -> Iterator[tuple[int, bytes, str]]:
    """Line number, path and class of each line that is not empty."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The true classes {file} cannot be read: {error}.", hint="--truth takes a UTF-8 CSV file, folders, or none"
        ) from None
    first = text.partition("\n")[0]
    reader = csv.reader(text.splitlines(), delimiter=max(",;\t", key=first.count))
    path_column, label_column = 0, 1
    for row in reader:
        cells = [cell.strip() for cell in row]
        if not any(cells):
            continue
        if reader.line_num == 1 and (columns := _header(cells, labels)):
            path_column, label_column = columns
            continue
        if len(cells) <= max(path_column, label_column) or not cells[path_column] or not cells[label_column]:
            raise ConfigError(f"{file}, line {reader.line_num}: a path and a class are needed, not {row!r}.")
        path = PurePosixPath(cells[path_column].replace("\\", "/"))  # without ./
        yield reader.line_num, str(path).encode(), cells[label_column]


def _header(cells: list[str], labels: Labels) -> tuple[int, int] | None:
    """The columns of path and class, if the first line names them."""
    heads = [cell.casefold() for cell in cells]
    paths = [i for i, head in enumerate(heads) if head in _FILE_HEADS]
    classes = [i for i, head in enumerate(heads) if head in _LABEL_HEADS and labels.find(head) is None]
    if classes:
        others = [i for i in range(len(heads)) if i not in classes]
        return (paths or others or [0])[0], classes[0]
    return (paths[0], 1 - paths[0]) if paths and len(cells) == 2 and labels.find(cells[1 - paths[0]]) is None else None


def _shown(lines: list[tuple[int, str]]) -> str:
    shown = ", ".join(f"{text!r} (line {line})" for line, text in lines[:_SHOWN])
    return f"{shown}, ..." if len(lines) > _SHOWN else shown


def truth_as_asked(options: JudgedOptions, labels: Labels, source: Path) -> Truth | None:
    """What `--truth` of `attack` and `evaluate` asks for; None: the classifier's own predictions.

    Raises
    ------
    ConfigError
        There is no such file, or it says something that cannot be.
    """
    if options.truth_from == PREDICTED:
        return None
    if options.truth_file is not None:
        return TruthFromFile(options.truth_file, labels)
    return TruthFromFolder(labels, source)


def recorded_truth(options: JudgedOptions) -> str:
    """What identifies `--truth` in settings: `predicted`, `folder`, or a file's name and SHA-256."""
    if options.truth_file is not None:
        return f"{options.truth_file.name} {file_sha256(options.truth_file)}"
    return {FOLDERS: "folder"}.get(options.truth_from, options.truth_from)


@dataclass
class PlannedTruth:
    """The true classes of a run's inputs, which are counted while its plan is written."""

    truth: Truth | None  # None: nobody says them
    if_most: bool  # they count only if most inputs have one: a folder may be called like a class by chance
    labelled: int = 0
    inputs: int = 0

    def of(self, path: bytes) -> int | None:
        """As `Truth.of`."""
        self.inputs += 1
        found = self.truth.of(path) if self.truth else None
        self.labelled += found is not None
        return found

    def facts(self, earlier: Mapping[str, Any] | None = None) -> dict[str, str | int]:
        """Where the true classes come from (`from`), of how many inputs they are known, and of how many inputs.

        To be asked for at the end of the plan. `from` is "none" if they do not count.

        Parameters
        ----------
        earlier
            The facts of the plan that this one adds to: it has decided whether they count.

        Raises
        ------
        ConfigError
            They come from a file that names no input.
        """
        if earlier is not None or not self.inputs:
            kept = self.labelled if earlier and earlier["from"] != "none" else 0
            return {"from": str((earlier or {"from": "none"})["from"]), "labelled": kept, "inputs": self.inputs}
        if isinstance(self.truth, TruthFromFile):
            self.truth.check_used()
        counts = self.truth is not None and self.labelled > (self.inputs / 2 if self.if_most else 0)
        if self.labelled and not counts:
            console.note(
                f"{self.labelled} of {self.inputs} inputs lie in folders that are called like classes: too few to be "
                "taken as true classes. --truth folders takes them."
            )
        where = self.truth.where if self.truth and counts else "none"
        return {"from": where, "labelled": self.labelled if counts else 0, "inputs": self.inputs}


def planned_truth(said: str, labels: Labels, source: Path | None) -> PlannedTruth:
    """What `run --truth` asks for.

    Parameters
    ----------
    said
        `folders`, `none` or a file's name; empty: folders, if most inputs lie in such.
    labels
        Without names, nothing has a true class.
    source
        None: it is not on this machine.

    Raises
    ------
    ConfigError
        There is no such file, or it says something that cannot be; or nothing is classified.
    """
    if said == NONE or not (said or labels.names):
        return PlannedTruth(None, if_most=False)
    if not labels.names:
        raise ConfigError("True classes are given, but nothing is classified.", hint="leave out --truth")
    if said in ("", FOLDERS):
        return PlannedTruth(TruthFromFolder(labels, source), if_most=not said)
    return PlannedTruth(TruthFromFile(Path(said), labels), if_most=False)
