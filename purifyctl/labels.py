"""Class labels: the names a classifier's outputs carry, and the true class that a folder name gives."""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import PurePosixPath


@dataclass(frozen=True)
class Labels:
    """Names of a classifier's classes, by index. `wnids` are WordNet ids, for ImageNet's classes only."""

    names: tuple[str, ...]
    wnids: tuple[str, ...] = ()

    def name(self, index: int) -> str:
        """The class's name, or its index as text where there are no names."""
        return self.names[index] if index < len(self.names) else str(index)


@cache
def imagenet_labels() -> Labels:
    """The 1000 classes of ImageNet-1k (ILSVRC 2012), with torchvision's names."""
    lines = files("purifyctl").joinpath("data/imagenet_classes.tsv").read_text().splitlines()
    wnids, names = zip(*(line.split("\t") for line in lines), strict=True)
    return Labels(names=names, wnids=wnids)


class TruthFromFolder:
    """The true class of an image, where a folder on its path is named after one.

    A folder counts when its name is a WordNet id (`n01440764`) or a class's name (`great white shark`, case and
    punctuation aside); the folder nearest to the file wins. Names that two classes share ("crane") give no truth.
    """

    def __init__(self, labels: Labels) -> None:
        keys = [_fold(name) for name in labels.names]
        counts = Counter(keys)
        self._index = {key: i for i, key in enumerate(keys) if counts[key] == 1}
        self._index |= {wnid: i for i, wnid in enumerate(labels.wnids)}

    def find(self, name: str) -> int | None:
        """The class of this WordNet id or name."""
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
