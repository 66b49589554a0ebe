"""One batch of `attack`: read, decode, attack, judge, write; a row for each input.

Attacked images are judged in 8 bits, because files hold 8 bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from purifyctl.attacks import Model, make_attack
from purifyctl.config import AttackConfig
from purifyctl.errors import Status
from purifyctl.files import write_into_tree
from purifyctl.images import Decoder, encode
from purifyctl.images.sink import printable
from purifyctl.labels import Labels
from purifyctl.photographs import WholeDecoder, read_some, to_pixels, to_tensor
from purifyctl.sources import ImageFile


@dataclass
class Row:
    """What became of one input. Missing values are None."""

    path: str  # relative to the source; bytes that are no UTF-8 are written as \\xNN
    status: Status = "ok"  # "ok", or why there is no image
    error: str | None = None  # the same in words
    output: str | None = None  # relative to the output folder
    label: int | None = None  # index of the class that counts as right
    target: int | None = None  # index of the class that the attack should reach, if there is one
    clean_prediction: int | None = None  # index
    attacked_prediction: int | None = None  # index; of the written file, in 8 bits
    clean_label: str | None = None  # name of the class predicted for the clean image
    attacked_label: str | None = None  # name of the class predicted for the attacked image
    max_delta_255: int | None = None  # the largest change of any value, in grey levels
    changed_pixels: int | None = None  # number of pixels with a changed value
    success: bool | None = None  # None: the clean image already was wrong, or on target


@dataclass(frozen=True)
class Input:
    """One image of the source, and where its attacked version goes."""

    image: ImageFile
    output: PurePosixPath  # relative to the output folder
    truth: int | None  # index of its true class


@dataclass(frozen=True)
class Setup:
    """What every batch needs."""

    attack: AttackConfig
    eps: float
    judged: Model  # whose predictions count
    attacked: Model  # whose gradients are followed
    labels: Labels
    predicted: bool  # the prediction on the clean image counts as right; else the true class
    target: str | int | None  # "least-likely", "random", or a class's index
    out: Path
    decoder: Decoder | WholeDecoder
    generator: torch.Generator
    device: torch.device


def attack_batch(setup: Setup, inputs: Sequence[Input]) -> list[Row]:
    """Read, decode, attack, judge and write one batch. Nothing in a file makes it raise."""
    rows = [Row(printable(one.image.path)) for one in inputs]
    read = read_some([one.image for one in inputs], setup.decoder)
    for i, error in read.errors.items():
        rows[i].status, rows[i].error = error.status, str(error)
    good = read.positions
    if not good:
        return rows
    images = _attack_images(setup, read.images, [inputs[i].truth for i in good], [rows[i] for i in good])
    for i, image in zip(good, images, strict=True):
        _write(setup.out, inputs[i].output, image, rows[i])
    return rows


def _attack_images(
    setup: Setup, images: NDArray[np.uint8], truth: Sequence[int | None], rows: Sequence[Row]
) -> NDArray[np.uint8]:
    """Attacked versions of RGB uint8 NHWC images. Fills in the images' rows."""
    x = to_tensor(images).to(setup.device)
    with torch.no_grad():
        logits = setup.judged(x)
    before = logits.argmax(1)
    label = before if setup.predicted else torch.tensor(truth, device=setup.device)
    target = _targets(setup, logits, label)
    x_adv = make_attack(
        setup.attack, setup.attacked, x, label if target is None else target, setup.eps, generator=setup.generator
    )
    attacked = to_pixels(x_adv)
    with torch.no_grad():
        after = setup.judged(to_tensor(attacked).to(setup.device)).argmax(1)
    moved = np.abs(attacked.astype(np.int16) - images).max(3)
    for k, row in enumerate(rows):
        row.label, row.clean_prediction, row.attacked_prediction = int(label[k]), int(before[k]), int(after[k])
        row.clean_label, row.attacked_label = setup.labels.name(int(before[k])), setup.labels.name(int(after[k]))
        row.max_delta_255, row.changed_pixels = int(moved[k].max()), int((moved[k] > 0).sum())
        if target is None:
            row.success = None if before[k] != label[k] else bool(after[k] != label[k])
        else:
            row.target = int(target[k])
            row.success = None if before[k] == target[k] else bool(after[k] == target[k])
    return attacked


def _targets(setup: Setup, logits: Tensor, label: Tensor) -> Tensor | None:
    """The class that each image is moved towards, if any. [N] int64"""
    match setup.target:
        case None:
            return None
        case "least-likely":
            return logits.argmin(1)
        case "random":
            classes = logits.shape[1]
            sampled = torch.randint(classes - 1, label.shape, generator=setup.generator, device=setup.device)
            return sampled + (sampled >= label).long()  # any class but the label
        case index:
            return torch.full_like(label, int(index))


def _write(out: Path, output: PurePosixPath, image: NDArray[np.uint8], row: Row) -> None:
    try:
        write_into_tree(out / output, encode(image, "png"))
    except OSError as error:
        row.status, row.error = "write_failed", f"{printable(output)} cannot be written: {error.strerror or error}."
    else:
        row.output = printable(output)
