"""The messages between a run's parent and its workers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import purifyctl
from purifyctl.config.run import RunOptions
from purifyctl.engine.bundle import Bundle
from purifyctl.run.plan import Input
from purifyctl.run.rows import Row
from purifyctl.sources import ImageFile


@dataclass(frozen=True)
class Setup:
    """What a worker gets once, before its first batch."""

    bundle: Bundle
    networks: tuple[str, ...]  # of the bundle's chain
    threshold: float | None  # gate score from which on an image is flagged; None: no gate, every image is purified
    out: Path
    partial: Path  # folder for images that are being written; on the same file system as `out`
    verbose: bool
    source: Path | str = field(repr=False)  # as `open_source` takes it; a URL may hold a password
    options: RunOptions = field(repr=False)  # a URL in them may hold a password, too


@dataclass(frozen=True)
class MachineSetup:
    """What a machine of a cluster gets, before its first batch."""

    setup: Setup
    probe: ImageFile | None  # an input that can be read where the run was started; None: the first ones cannot be read
    marker: Path  # a file in the output: if the machine sees the same file, it sees the same output
    marker_sha256: str
    command: tuple[str, ...] | None  # the command that starts a worker; None: the machine's own
    version: str = purifyctl.__version__


@dataclass(frozen=True)
class InputBatch:
    """Inputs that are processed together."""

    part: int
    number: int  # in the plan
    positions: tuple[int, ...]  # of the inputs, within their part
    inputs: Sequence[Input]
    decode_only: bool = False  # only find out whether they can be decoded; their rows are not used


# Messages from a worker to its parent. `batch` is the number under which the parent sent the batch.
@dataclass(frozen=True)
class Ready:
    window: int  # batches in hand that keep the worker busy
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
    """The worker cannot continue, and no image is the reason."""

    error: Exception
