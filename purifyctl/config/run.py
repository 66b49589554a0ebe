"""The options of `purifyctl run`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from purifyctl.config.devices import DeviceOption
from purifyctl.config.formats import LOSSLESS, Compression, ImageFormat
from purifyctl.config.options import option
from purifyctl.config.picture_options import PictureOptions
from purifyctl.config.truth import TRUTH_HELP
from purifyctl.config.values import (
    DEFAULT_GATE_FPR,
    EXCLUDE_HELP,
    INCLUDE_HELP,
    Size,
    parse_percent,
    parse_shard,
    parse_size,
)
from purifyctl.errors import ConfigError

SETTINGS, PLAN = "run.json", "plan.parquet"
RUN_FILES = (SETTINGS, PLAN)  # a folder that holds both is a run's
IMAGE_TIMEOUT_S = 60.0
COMPARED = 2000  # inputs; a run that has no more compares predictions without being asked
OnExisting = Literal["resume", "overwrite", "error"]
Unflagged = Literal["copy", "link", "leave"]  # what becomes of a file that the gate does not flag

# Version 0.1.0 always wrote these into run.json. Options that came later are written only if they differ from their
# default.
ALWAYS_WRITTEN = (
    "image_format", "packed", "classify", "compare", "top", "include", "exclude", "limit", "max_pixels",
)  # fmt: skip


@dataclass(frozen=True)
class RunOptions(DeviceOption, PictureOptions):
    """The options of `purifyctl run`, beyond source, engine and output.

    To resume a run, a call must repeat the value of every field that is not marked `may_change`.
    """

    image_format: ImageFormat | None = option(
        "png", flag="--format", help=f"Format of the purified images. {LOSSLESS} are lossless; none writes rows only."
    )
    size: Size | None = option(  # None: the engine's own
        None,
        metavar="auto|original|N",
        parse=parse_size,
        recorded_as="size",  # if it is "original"; a number is the engine's, which is recorded
        help="original: every picture keeps its size, and is purified in tiles. A number: only the square in its "
        "middle, resized to this many pixels. Default: auto, the engine's square, which follows from its classifier.",
    )
    compression: Compression = option(
        "fast",
        may_change=True,
        help="fast: write purified images quickly. small: files a tenth smaller, which take up to 30 times as long.",
    )
    keep_names: bool = option(
        False, help="Write each image in its input's own format and name, if the format can be written."
    )
    packed: bool = option(
        False, flag="--tar", help="Write the purified images into tar archives of about 1,000, and no folder tree."
    )
    images_to: str | None = option(
        None,
        metavar="URL",
        recorded_as="images_to",  # without the password
        help="Write the purified images into an object store, such as s3://bucket/folder, and not into OUT.",
    )
    classify: bool = True  # `--classifier none` makes it False
    compare: bool | None = option(  # None: if the run is small
        None,
        flag="--compare/--no-compare",
        help="Classify the unpurified images too, and say which predictions changed. It takes about a third longer. "
        f"Default: runs of up to {COMPARED:,} inputs do.",
    )
    gated: bool = option(
        False,
        flag="--gate",
        recorded_as="gate",
        help="Purify only images that look attacked; pass the others on unchanged.",
    )
    gate_fpr: float | None = option(  # None: DEFAULT_GATE_FPR
        None,
        parse=parse_percent,
        recorded_as="gate",
        help="Share of clean images that the gate may flag by mistake, such as 0.2%, 5% or 0.05. Default: 1%.",
    )
    unflagged: Unflagged | None = option(  # None: copy
        None,
        recorded_as="unflagged",  # when there is a gate
        help="What --gate does with files that it passes on: copy them into OUT (default), link them, or leave them.",
    )
    truth: str = option(
        "",
        metavar="WHAT",
        recorded_as="truth",  # a file's SHA-256
        help=f"True classes: [bold]folders[/] (named after classes), {TRUTH_HELP}, or [bold]none[/]. Default: folders, "
        "if most inputs lie in such folders.",
    )
    top: int = option(5, minimum=1, help="Number of classes in each row.")
    files_from: Path | None = option(
        None,
        metavar="LIST",
        recorded_as="files_from",  # its SHA-256
        help="File that names the files in SRC to take, one per line. SRC is then not listed.",
    )
    include: tuple[str, ...] = option((), help=INCLUDE_HELP)
    exclude: tuple[str, ...] = option((), help=EXCLUDE_HELP)
    strict: bool = option(False, help="Files that are no pictures fail. Otherwise they are counted and left out.")
    csv: bool = option(False, may_change=True, help="Also write rows.csv.")
    jsonl: bool = option(False, may_change=True, help="Also write rows.jsonl.")
    max_errors: int | None = option(
        None, minimum=0, may_change=True, help="Stop when more inputs than this have failed."
    )
    on_existing: OnExisting = option(
        "resume",
        may_change=True,
        help="What to do when OUT holds an earlier run. resume: continue it, if the options are the same.",
    )
    retry_failed: bool = option(False, may_change=True, help="Try again the inputs that failed in earlier calls.")
    shard: tuple[int, int] = option(  # this call does every n-th part of the plan, beginning with part i
        (0, 1),
        metavar="I/N",
        parse=parse_shard,
        may_change=True,
        help="N calls share this run; this call is number I, counted from 0.",
    )
    limit: int | None = option(
        None, minimum=1, help="Take a sample of the inputs, this many, spread over all of them; always the same."
    )
    image_timeout: float = option(
        IMAGE_TIMEOUT_S,
        may_change=True,
        help="Seconds that a batch may spend in one stage. After that its images go one by one.",
    )
    ray: str | None = option(  # "": $RAY_ADDRESS, or a new Ray on this machine
        None,
        metavar="[ADDRESS]",
        may_change=True,
        help="Work on a Ray cluster. Without an address: the one in $RAY_ADDRESS, or a new Ray on this machine.",
    )
    workers: int | None = option(
        None,
        minimum=1,
        may_change=True,
        help="Workers on the Ray cluster. Default: one per GPU, or one per machine for an engine that runs on CPUs.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        index, of = self.shard
        if not 0 <= index < of:
            raise ConfigError(f"There is no shard {index} of {of}.", hint=f"they count from 0/{of} to {of - 1}/{of}")
        if self.image_timeout <= 0:
            raise ConfigError(f"image_timeout is {self.image_timeout}; it must be positive.")
        if self.workers is not None and self.ray is None:
            raise ConfigError("--workers is for a cluster.", hint="pass --ray too")
        if self.ray is not None and ":" in self.device:
            raise ConfigError(f"Ray chooses the GPUs, and --device is {self.device}.", hint="pass --device cuda")
        if not self.gated and (self.gate_fpr, self.unflagged) != (None, None):
            raise ConfigError("--gate-fpr and --unflagged are for --gate.", hint="add --gate")
        if self.images_to and (self.packed or self.image_format is None):
            raise ConfigError("Images go into an object store one by one.", hint="leave out --tar and --format none")
        if self.packed and self.image_format is None:
            raise ConfigError("There are no images to put into archives.", hint="leave out --format none or --tar")
        if self.packed and self.gated and self.unflagged != "leave":
            raise ConfigError(
                "Archives hold only purified images.", hint="add --unflagged leave, or leave out --tar or --gate"
            )
        if self.images_to and self.gated and self.unflagged == "link":
            raise ConfigError("Nothing can be linked into an object store.", hint="pass --unflagged copy or leave")
        if self.keep_names and self.image_format is None:
            raise ConfigError("There are no images to name.", hint="leave out --format none or --keep-names")
        if self.compare and not self.classify:
            raise ConfigError("compare needs a classifier.", hint="leave out --classifier none or --compare")

    @property
    def works_here(self) -> bool:
        return self.ray is None

    @property
    def whole(self) -> bool:
        """Whether pictures keep their own size."""
        return self.size == "original"

    @property
    def gate(self) -> float | None:
        """The gate's false-positive rate. None: there is no gate, and every image is purified."""
        return (DEFAULT_GATE_FPR if self.gate_fpr is None else self.gate_fpr) if self.gated else None
