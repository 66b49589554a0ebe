"""What a run's parent and its workers tell each other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import purifyctl
from purifyctl.config.run import Unflagged
from purifyctl.engine.bundle import Bundle
from purifyctl.run.plan import Input
from purifyctl.run.rows import Row
from purifyctl.sources import ImageFile


@dataclass(frozen=True)
class GateSetup:
    """That only flagged images are to be purified."""

    threshold: float  # of the bundle's gate's scores
    unflagged: Unflagged


@dataclass(frozen=True)
class Setup:
    """What every batch of one run has in common."""

    bundle: Bundle
    chain: tuple[str, ...]  # the bundle's networks that an image goes through
    out: Path
    partial: Path  # folder for images that are being written
    image_format: str | None  # None: rows only
    packed: bool  # images wait for the archive that they go into
    compare: bool
    top: int
    max_pixels: int
    verbose: bool
    source: Path | str = field(repr=False)  # as `open_source` takes it; a URL may hold a password
    gate: GateSetup | None = None
    images_to: str | None = field(default=None, repr=False)  # where images go instead of `out`; may hold a password


@dataclass(frozen=True)
class MachineSetup:
    """What a machine of a cluster is told."""

    task: Setup
    probe: ImageFile | None  # an input that can be read where the run was started; None: the first ones cannot
    marker: Path  # a file in the output, by which the machine knows that it has the same folder
    marker_sha256: str
    image_timeout: float
    command: tuple[str, ...] | None  # that starts a worker; None: as the machine does it
    version: str = purifyctl.__version__


@dataclass(frozen=True)
class Batch:
    """Inputs that are processed together."""

    part: int
    number: int  # of the plan's batches
    positions: tuple[int, ...]  # of the inputs, within their part
    inputs: Sequence[Input]
    decode_only: bool = False  # to see whether it can be; there are no rows of it then


# What a worker tells its parent; `batch` is the number under which the parent sent it.
@dataclass(frozen=True)
class Ready:
    window: int  # batches in hand that keep it busy
    threads: Mapping[str, int]  # of each stage


@dataclass(frozen=True)
class Entered:
    """A batch has come to a stage."""

    batch: int
    stage: str | None  # None: it waits for the next one


@dataclass(frozen=True)
class Done:
    batch: int
    rows: list[Row]


@dataclass(frozen=True)
class Failed:
    """The worker cannot go on, for a reason that is no image's."""

    error: Exception
