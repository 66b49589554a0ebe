"""Class labels: the names of a classifier's outputs."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

from purifyctl.errors import ConfigError

IMAGENET = "imagenet"  # what --labels takes instead of a file


@dataclass(frozen=True)
class Labels:
    """Names of a classifier's classes, by index. `wnids`: WordNet ids, only for the classes of ImageNet."""

    names: tuple[str, ...]
    wnids: tuple[str, ...] = ()

    def name(self, index: int) -> str:
        """The class's name. If there are no names: `class 7`."""
        return self.names[index] if index < len(self.names) else f"class {index}"

    @property
    def are_numbers(self) -> bool:
        """Whether nobody has named the classes: they are called `class 0`, `class 1`, ..."""
        return self.names == numbered(len(self.names)).names

    def find(self, name: str) -> int | None:
        """The class with this WordNet id, name or index. Case and punctuation do not matter. None: there is none.

        A name that two classes share ("crane") names none.
        """
        if (found := self._by_name.get(_fold(name))) is not None:
            return found
        index = int(name) if name.isascii() and name.isdecimal() and name == str(int(name)) else None
        return index if index is not None and index < len(self.names) else None

    @cached_property
    def _by_name(self) -> Mapping[str, int]:
        keys = [_fold(name) for name in self.names]
        counts = Counter(keys)
        by_name = {key: i for i, key in enumerate(keys) if counts[key] == 1 and key}
        return by_name | {wnid: i for i, wnid in enumerate(self.wnids)}


def numbered(classes: int) -> Labels:
    """Labels for classes that nobody has named."""
    return Labels(tuple(f"class {index}" for index in range(classes)))


@cache
def imagenet_labels() -> Labels:
    """The 1000 classes of ImageNet-1k (ILSVRC 2012), with torchvision's names."""
    lines = files("purifyctl").joinpath("data/imagenet_classes.tsv").read_text().splitlines()
    wnids, names = zip(*(line.split("\t") for line in lines), strict=True)
    return Labels(names=names, wnids=wnids)


def read_labels(said: str, classes: int) -> Labels:
    """The names that `--labels` gives: `imagenet`, or a file with one name per line, or JSON (`labels_from`).

    Raises
    ------
    ConfigError
        The file cannot be read, or does not name every class once.
    """
    if said == IMAGENET:
        return _checked(imagenet_labels(), classes, said)
    try:
        text = Path(said).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"The labels {said} cannot be read: {error}.", hint="--labels takes a UTF-8 text file, or: imagenet"
        ) from None
    if text.lstrip()[:1] in ("[", "{"):
        try:
            held = json.loads(text)
        except ValueError as error:
            raise ConfigError(f"The labels {said} are no JSON: {error}.", hint="or write one name per line") from None
    else:
        held = [line.strip() for line in text.rstrip().splitlines()]
    return labels_from(held, classes, said)


def labels_from(held: Any, classes: int, where: str) -> Labels:
    """Labels from a list of names, `{index: name}` or `{name: index}`.

    Raises
    ------
    ConfigError
        It is something else, or does not name every class once.
    """
    if isinstance(held, Mapping):
        pairs = [(key, value) if _is_index(key) else (value, key) for key, value in held.items()]
        if all(_is_index(value) for value in held.values()):  # of {"0": 3} the key is the name
            pairs = [(value, key) for key, value in held.items()]
        if not all(_is_index(index) for index, _ in pairs):
            raise ConfigError(
                f"The labels in {where} pair names with no indices.", hint="write {index: name}, or a list"
            )
        by_index = {int(index): name for index, name in pairs}
        if sorted(by_index) != list(range(len(pairs))):
            raise ConfigError(f"The labels in {where} do not count from 0 to {len(pairs) - 1}, each once.")
        held = [by_index[index] for index in range(len(pairs))]
    if isinstance(held, list | tuple) and held and all(isinstance(name, list | tuple) and name for name in held):
        held = [name[-1] for name in held]  # Keras has [WordNet id, name]
    if not (isinstance(held, list | tuple) and all(isinstance(name, str | int) for name in held)):
        raise ConfigError(f"{where} holds no names of classes.", hint="one per line, or JSON: a list or {index: name}")
    names = tuple(str(name) for name in held)
    if not all(names):
        raise ConfigError(f"{where}, line {names.index('') + 1}: the name is empty.", hint="one name per line")
    return _checked(_with_wnids(names), classes, where)


def _with_wnids(names: tuple[str, ...]) -> Labels:
    """WordNet ids as names are those of ImageNet, and get its names."""
    known = imagenet_labels()
    if names and all(re.fullmatch(r"n\d{8}", name) for name in names):
        shown = dict(zip(known.wnids, known.names, strict=True))
        return Labels(tuple(shown.get(name, name) for name in names), names)
    return Labels(names)


def _checked(labels: Labels, classes: int, where: str) -> Labels:
    if len(labels.names) != classes:
        raise ConfigError(
            f"{where} has {len(labels.names)} names, and the classifier has {classes} classes.",
            hint="give one name for each class, in the order of its outputs",
        )
    return labels


def _is_index(value: Any) -> bool:
    return not isinstance(value, bool) and (isinstance(value, int) or (isinstance(value, str) and value.isdecimal()))


def _fold(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name).strip().casefold()
