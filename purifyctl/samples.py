"""Photographs that come inside packages. They are enough to see everything work, and too few for good measurements.

foolbox contains 20 ImageNet photographs with their labels; scikit-image contains a dozen without labels.
"""

import shutil
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from purifyctl.errors import MissingDependencyError
from purifyctl.labels import imagenet_labels
from purifyctl.sources import ImageFile

_SCIKIT_IMAGE = (
    "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png",
    "grass.png", "gravel.png", "hubble_deep_field.jpg", "motorcycle_left.png", "motorcycle_right.png", "rocket.jpg",
)  # fmt: skip


def copy_samples(into: Path, *, labelled_only: bool = False) -> int:
    """Copy the sample photographs into a folder tree, the labelled ones under their WordNet ids. Returns how many.

    Raises
    ------
    MissingDependencyError
        The packages that contain them are not installed.
    """
    wnids = imagenet_labels().wnids
    count = 0
    for file in _labelled():
        label = int(file.stem.rsplit("_", 1)[1])  # imagenet_NN_LABEL.jpg
        count += _copy(file, into / wnids[label])
    for file in () if labelled_only else _unlabelled():
        count += _copy(file, into / "unlabelled")
    return count


def installed_samples() -> list[ImageFile]:
    """The sample photographs where they lie: foolbox's if it is installed, then scikit-image's."""
    files = [*(_labelled() if find_spec("foolbox") else ()), *_unlabelled()]
    return [ImageFile(file, PurePosixPath(file.name)) for file in files]


def _labelled() -> list[Path]:
    return sorted(_folder("foolbox").glob("imagenet_*.jpg"))


def _unlabelled() -> list[Path]:
    return [_folder("skimage") / name for name in _SCIKIT_IMAGE]


def _copy(file: Path, folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, folder / file.name)
    return 1


def _folder(package: str) -> Path:
    spec = find_spec(package)  # without an import, because foolbox takes a second
    if spec is None or spec.origin is None:
        raise MissingDependencyError(package, needed_for="The sample photographs", extra="demo")
    return Path(spec.origin).parent / "data"
