"""Class labels: the names of a classifier's outputs, and the true class that a folder's name gives."""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath


@dataclass(frozen=True)
class Labels:
    """Names of a classifier's classes, by index. `wnids`: WordNet ids, only for the classes of ImageNet."""

    names: tuple[str, ...]
    wnids: tuple[str, ...] = ()

    def name(self, index: int) -> str:
        """The class's name. If there are no names: its index as text."""
        return self.names[index] if index < len(self.names) else str(index)


@cache
def imagenet_labels() -> Labels:
    """The 1000 classes of ImageNet-1k (ILSVRC 2012), with torchvision's names."""
    lines = files("purifyctl").joinpath("data/imagenet_classes.tsv").read_text().splitlines()
    wnids, names = zip(*(line.split("\t") for line in lines), strict=True)
    return Labels(names=names, wnids=wnids)


class TruthFromFolder:
    """Finds the true class of an image: a folder on its path is named after the class.

    A folder counts when its name is a WordNet id (`n01440764`) or a class's name (`great white shark`). Case and
    punctuation do not matter. The folder nearest to the file wins. A name that two classes share ("crane") gives no
    class.
    """

    def __init__(self, labels: Labels) -> None:
        keys = [_fold(name) for name in labels.names]
        counts = Counter(keys)
        self._index = {key: i for i, key in enumerate(keys) if counts[key] == 1}
        self._index |= {wnid: i for i, wnid in enumerate(labels.wnids)}

    def find(self, name: str) -> int | None:
        """The class with this WordNet id or name. None: there is no such class."""
        return self._index.get(_fold(name))

    def __call__(self, path: PurePosixPath) -> int | None:
        """`path`: the image's path, relative to the source."""
        for folder in reversed(path.parts[:-1]):
            index = self.find(folder)
            if index is not None:
                return index
        return None


def _fold(name: str) -> str:
    return re.sub(r"[\W_]+", " ", name).strip().casefold()
