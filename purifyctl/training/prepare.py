"""What a training begins with: batches, classifiers, a purifier; and which precision is the fastest here."""

import io
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image
from torch import nn

from purifyctl import console
from purifyctl.checkpoint import Checkpoint, load_purifier
from purifyctl.classifiers import Classifier, load_classifier, own_square, weights_sha256
from purifyctl.config import ClassifierConfig, TrainConfig
from purifyctl.config.picture_options import PictureOptions
from purifyctl.config.train import for_squares
from purifyctl.config.training import PRECISIONS, Precision
from purifyctl.errors import ConfigError, ImageError
from purifyctl.shipped import shipped_checkpoint
from purifyctl.sources import ImageFile, read_file
from purifyctl.training.batches import TrainingBatches
from purifyctl.training.phases import PlannedPhase
from purifyctl.training.trainer import Trainer
from purifyctl.training.workers import Workers

LEAST_STEPS = 20  # a training whose minutes hold fewer is refused
PROBED = 32  # photographs whose size is read before the training
MEASURED_S = 1.0  # seconds of steps from which a precision's speed is known


def batch_size_of(config: TrainConfig, training: int, photographs: int, photos: Path, workers: Workers) -> int:
    """Photographs per step: the recipe's number, or fewer where there are fewer to train on.

    Raises
    ------
    ConfigError
        There are too few photographs, or the processes cannot share a batch evenly.
    """
    if training < 1 or photographs < config.least_photos:
        raise ConfigError(
            f"{photos} holds {photographs} photographs; that is too few to train on and hold some out: at least "
            f"{config.least_photos} are needed.",
            hint="name a folder with more as --photos",
        )
    batch_size = config.batch_size
    if training < batch_size:
        batch_size = max(training // workers.count, 1) * workers.count
        console.note(f"There are fewer photographs than in a batch of {config.batch_size}: batches hold {batch_size}.")
    if batch_size % workers.count or batch_size > training:
        raise ConfigError(
            f"A batch of {batch_size} cannot be shared evenly by {workers.count} processes.",
            hint="make batch_size a multiple of the number of processes, or leave out --processes",
        )
    return batch_size


def batches_of(
    config: TrainConfig, files: list[ImageFile], batch_size: int, pictures: PictureOptions, workers: Workers
) -> TrainingBatches:
    """This process's share of a phase's batches."""
    return TrainingBatches(
        files,
        batch_size=batch_size,
        resize=config.resize,
        crop=config.image_size,
        seed=config.seed,
        variants=config.cached_attacks,
        rank=workers.rank,
        count=workers.count,
        threads=max(1 if workers.started_here else 2, (os.cpu_count() or 2) // (2 * workers.count)),
        pictures=pictures,
    )


def load_classifiers(config: TrainConfig, device: torch.device) -> dict[ClassifierConfig, Classifier]:
    """The recipe's classifiers, on the device."""
    if not config.classifiers:
        raise ConfigError("The recipe names no classifier.", hint="add --classifier NAME")
    loaded = {chosen: load_classifier(chosen) for chosen in config.classifiers}
    if device.type == "cpu":
        for classifier in loaded.values():
            dilate_single_taps(classifier)
    return {
        chosen: classifier.to(device).to(memory_format=torch.channels_last) for chosen, classifier in loaded.items()
    }


def dilate_single_taps(net: nn.Module) -> None:
    """Give convolutions of 1x1 pixels a dilation, which changes nothing: one tap has no distance to another.

    In a process with one thread, on a CPU, torch computes these by its slow way if a batch holds fewer than 16 images,
    unless they are dilated (`use_mkldnn` in torch's Convolution.cpp). The slow way takes an eighth longer
    for the gradients of MobileNetV2.
    """
    for module in net.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.padding == (0, 0):
            module.dilation = (2, 2)


def in_square_of(classifier: Classifier, config: TrainConfig) -> TrainConfig:
    """The recipe for the square of this classifier's engine, where it says `resize = 0`.

    A classifier that takes one size only sees crops of that size, or whole squares, of which it takes the middle.
    """
    multiple = config.network.size_multiple
    if not config.resize:
        side = own_square(classifier, multiple)
        console.note(
            f"An engine for {classifier.name} purifies squares of {side} pixels; photographs are cut from these."
        )
        config = for_squares(config, side)
    if config.classifier_sees != "in_use" or not classifier.fixed or classifier.input_size is None:
        return config
    own = classifier.input_size[0]
    possible = own % multiple == 0 and classifier.scale_in(config.resize) == 1
    size = own if possible else config.resize
    phases = tuple(replace(phase, image_size=size) for phase in config.phases)
    return replace(config, image_size=size, phases=phases)


def warn_if_small(photographs: Sequence[ImageFile], side: int) -> None:
    """Say so if most of some photographs are smaller than a crop of `side` pixels."""
    some = photographs[:PROBED]
    sizes = [min(size) for file in some if (size := _size(file))]
    if 2 * sum(short < side for short in sizes) > len(sizes):
        console.warn(
            f"Most photographs are smaller than {side} pixels, such as {min(sizes)}: they are enlarged, as an engine "
            "enlarges them. Larger photographs train better."
        )


def _size(file: ImageFile) -> tuple[int, int] | None:
    """(width, height) in pixels, from the header; None if it cannot be read. What is damaged is said later."""
    try:
        with Image.open(io.BytesIO(read_file(file).tobytes())) as image:
            return image.size
    except (OSError, ValueError, ImageError):
        return None


def checkpoint_to_start_from(config: TrainConfig) -> Checkpoint | None:
    """The purifier that the recipe names; None if the weights are new."""
    if not config.start:
        return None
    path = Path(config.start)
    if config.start == "shipped":
        is_one = len({classifier.name for classifier in config.classifiers}) == 1
        path = shipped_checkpoint(config.classifiers[0] if is_one else None)
    purifier = load_purifier(path)
    if purifier.network != config.network:
        raise ConfigError(
            f"{path} holds a {purifier.network.kind} network of width {purifier.network.width} and depth "
            f"{purifier.network.depth}; the recipe describes another.",
            hint="make [network] in the recipe the same, or start from another checkpoint",
        )
    return purifier


def fastest_precision(
    phase: PlannedPhase, classifiers: Sequence[Classifier], workers: Workers, start: nn.Module | None, batch_size: int
) -> Precision:
    """Which precision takes the least time for a step here, by a second of steps with each that the recipe allows.

    Raises
    ------
    ConfigError
        The recipe's minutes are too short for a training.
    """
    config = phase.config
    x = torch.rand(batch_size // workers.count, 3, config.image_size, config.image_size)
    x = x.to(workers.device, memory_format=torch.channels_last)
    seconds: dict[Precision, float] = {}
    for precision in PRECISIONS if config.precision == "auto" else (config.precision,):
        in_this = replace(phase, config=replace(config, precision=precision))
        trainer = Trainer(in_this, classifiers, workers, start)
        first = _time(trainer, x, 1, workers)  # also what is slow only once
        steps = min(20, math.ceil(MEASURED_S / first))
        seconds[precision] = _time(trainer, x, steps, workers)
    best = min(seconds, key=lambda precision: seconds[precision])
    others = "".join(f", {precision} {took:.2g} s" for precision, took in seconds.items() if precision != best)
    used = f"{workers.count} process{'es' if workers.count > 1 else ''}"
    console.note(f"A step takes {seconds[best]:.2g} s in {best} with {used}{others}.")
    if config.minutes and (hold := 60 * config.minutes / seconds[best]) < LEAST_STEPS:
        raise ConfigError(
            f"{config.minutes:g} minutes hold about {hold:.0f} steps here; at least {LEAST_STEPS} are needed.",
            hint=f"--minutes {math.ceil(LEAST_STEPS * seconds[best] / 6) / 10 + 0.1:.1f} or more",
        )
    return best


def _time(trainer: Trainer, x: torch.Tensor, steps: int, workers: Workers) -> float:
    """Seconds per step; the same in every process."""
    started = time.monotonic()
    for step in range(steps):
        trainer.step(x, step)  # its losses are numbers, which waits for a GPU
    return workers.largest((time.monotonic() - started) / steps)


def weights_of(classifiers: Mapping[ClassifierConfig, Classifier]) -> dict[str, str]:
    """The SHA-256 of each classifier's weights, by the classifier's name, as an engine's manifest has it."""
    return {chosen.name: weights_sha256(classifier) for chosen, classifier in classifiers.items()}
