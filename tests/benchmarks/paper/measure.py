"""Photographs under attack, through purifiers: one file for each outcome, which a later call does not make again."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from purifyctl.attacks import make_attack
from purifyctl.classifiers import Classifier, load_classifier, own_square
from purifyctl.config import AttackConfig, ClassifierConfig
from purifyctl.errors import ConfigError
from purifyctl.photographs import Pixels, read_pixels, to_pixels, to_tensor
from purifyctl.samples import installed_samples
from purifyctl.sources import list_images
from purifyctl.truth import TruthFromFolder
from tests.benchmarks.paper.plan import short_name
from tests.benchmarks.paper.trainings import MULTIPLE

BATCH = 16
CLEAN = "clean"
# scikit-image's: CC0 (coffee by Rachel Michetti, camera by Lav Varshney, chelsea by Stefan van der Walt) or NASA's,
# SpaceX's, in the public domain
FREE = ("coffee", "rocket", "camera", "chelsea", "astronaut")


@dataclass(frozen=True)
class Outcome:
    """Of n photographs in one condition, through one purifier."""

    prediction: NDArray[np.int64]  # [n]
    true_confidence: NDArray[np.float32]  # [n], softmax of the true class
    top1_confidence: NDArray[np.float32]  # [n], of the predicted one


@dataclass(frozen=True)
class Ground:
    """A classifier, and photographs that nothing was trained on."""

    chosen: ClassifierConfig
    classifier: Classifier
    clean: Pixels
    truth: NDArray[np.int64]  # [n]
    folder: Path  # of what was measured

    @property
    def x(self) -> Tensor:
        """RGB NCHW float in [0, 1]."""
        return to_tensor(self.clean)

    @property
    def y(self) -> Tensor:
        return torch.from_numpy(self.truth)

    def attacked(self, name: str, attack: AttackConfig, eps: float) -> Pixels:
        """The photographs, attacked away from the true label by an attacker who knows the classifier alone."""
        if name == CLEAN:
            return self.clean
        file = self.folder / "attacked" / f"{name}.npy"
        if not file.exists():
            pixels = to_pixels(self.in_batches(attack_of(self.classifier, attack, eps)))
            file.parent.mkdir(parents=True, exist_ok=True)
            save_whole(file, lambda where: np.save(where, pixels))
        found: Pixels = np.load(file)
        return found

    def in_batches(self, make: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """`make` of each batch of photographs and labels."""
        batches = zip(torch.split(self.x, BATCH), torch.split(self.y, BATCH), strict=True)
        return torch.cat([make(x, y) for x, y in batches])

    def outcome(self, condition: str, purifier: str, net: nn.Module | None, pixels: Callable[[], Pixels]) -> Outcome:
        """What the classifier says in one condition, behind one purifier. `net`: None is no purifier."""
        file = self.folder / "outcomes" / condition / f"{purifier}.npz"
        if not file.exists():
            made = self.classify(to_tensor(pixels()), net)
            file.parent.mkdir(parents=True, exist_ok=True)
            save_whole(file, lambda where: np.savez(where, **vars(made)))
        with np.load(file) as found:
            return Outcome(**found)

    @torch.no_grad()
    def classify(self, x: Tensor, net: nn.Module | None) -> Outcome:
        """What the classifier says of images in [0, 1]. Purified ones are rounded to 8 bits, as files are."""
        shares = torch.cat([self.classifier(purify(batch, net)).softmax(1) for batch in torch.split(x, BATCH)])
        top1, prediction = shares.max(1)
        true = shares.gather(1, self.y[:, None])[:, 0]
        return Outcome(prediction.numpy(), true.numpy(), top1.numpy())


def purify(x: Tensor, net: nn.Module | None) -> Tensor:
    """Purified images in whole grey levels; without a purifier, the images."""
    return x if net is None else torch.round(net(x) * 255) / 255


def attack_of(model: Classifier, attack: AttackConfig, eps: float) -> Callable[[Tensor, Tensor], Tensor]:
    """The attack, in whole grey levels, from the same random numbers every time."""
    generator = torch.Generator().manual_seed(0)
    return lambda x, y: make_attack(attack, model, x, y, eps, generator=generator)


def load_ground(chosen: ClassifierConfig, val: Path, most: int, out: Path) -> Ground:
    """The photographs under `val` whose folders name their class: `most` of them, evenly spaced."""
    classifier = load_classifier(chosen).to(memory_format=torch.channels_last)
    truth_of = TruthFromFolder(classifier.labels)
    files = [file for file in list_images(val) if truth_of(file.path) is not None]
    if not files:
        raise ConfigError(f"No folder in {val} names a class of {classifier.name}.", hint="name folders after classes")
    files = [files[i * len(files) // most] for i in range(most)] if len(files) > most else files
    pixels, kept = read_pixels(files, own_square(classifier, MULTIPLE))
    truth = np.array([truth_of(file.path) for file in kept], np.int64)
    return Ground(chosen, classifier, pixels, truth, out / "measured" / f"{short_name(chosen)}-{len(kept)}")


def sample_ground(chosen: ClassifierConfig, out: Path) -> Ground:
    """Photographs that anybody may pass on, for figures. What the classifier says of a clean one counts as right."""
    classifier = load_classifier(chosen).to(memory_format=torch.channels_last)
    files = [file for file in installed_samples() if file.path.stem in FREE]
    pixels, _ = read_pixels(files, own_square(classifier, MULTIPLE))
    with torch.no_grad():
        truth = classifier(to_tensor(pixels)).argmax(1).numpy()
    return Ground(chosen, classifier, pixels, truth, out / "measured" / f"{short_name(chosen)}-samples")


def save_whole(file: Path, save: Callable[[Path], object]) -> None:
    """Have `save` write a file that a stop leaves whole or not at all."""
    part = file.with_name(f".part{file.suffix}")
    save(part)
    part.rename(file)
