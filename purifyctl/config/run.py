"""What a run can be told."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from purifyctl.config.values import MAX_PIXELS
from purifyctl.errors import ConfigError

IMAGE_TIMEOUT_S = 60.0
OnExisting = Literal["resume", "overwrite", "error"]
Unflagged = Literal["copy", "link", "leave"]  # what becomes of a file that the gate does not flag


@dataclass(frozen=True)
class RunOptions:
    """What `purifyctl run` can be told, beyond source, engine and output."""

    # what a run is, which resuming it must not change
    image_format: str | None = "png"  # "png", "webp" (lossless), "jpeg"; None: rows only
    images_to: str | None = None  # URL of a folder in an object store that they go into, instead of the output folder
    packed: bool = False  # the images of each shard in a tar file
    classify: bool = True
    compare: bool = False  # classify the unpurified images too
    gate: float | None = None  # purify flagged images only, at this false-positive rate; None: all
    unflagged: Unflagged = "copy"  # files that are not flagged; left ones are in the source alone
    top: int = 5  # classes per row
    files_from: Path | None = None  # a list of the files in the source to take
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    limit: int | None = None  # the first so many inputs
    max_pixels: int = MAX_PIXELS
    # how it is gone about
    on_existing: OnExisting = "resume"
    retry_failed: bool = False  # what an earlier call could not read or write
    shard: tuple[int, int] = (0, 1)  # of the plan's shards every n-th, from this one on
    csv: bool = False
    jsonl: bool = False
    max_errors: int | None = None  # stop when more inputs than this have failed
    image_timeout: float = IMAGE_TIMEOUT_S  # seconds that a batch may stay in one stage
    ray: str | None = None  # address of a cluster to work on; "": $RAY_ADDRESS, or a fresh one on this machine
    workers: int | None = None  # on the cluster; None: one per GPU, or per machine where the engine is for CPUs

    def __post_init__(self) -> None:
        index, of = self.shard
        if not 0 <= index < of:
            raise ConfigError(f"There is no shard {index} of {of}.", hint=f"they count from 0/{of} to {of - 1}/{of}")
        if self.top < 1 or self.image_timeout <= 0 or (self.limit is not None and self.limit < 1):
            raise ConfigError("top, limit and image_timeout must be positive.")
        if self.workers is not None and (self.ray is None or self.workers < 1):
            raise ConfigError("workers are for a cluster, and at least 1.", hint="pass --ray too")
        if self.images_to and (self.packed or self.image_format is None):
            raise ConfigError("Images go into an object store one by one.", hint="leave out --tar and --format none")
        if self.packed and self.image_format is None:
            raise ConfigError("There are no images to put into tar files.", hint="leave out --format none or --tar")
        if self.packed and self.gate is not None and self.unflagged != "leave":
            raise ConfigError(
                "Tar files hold purified images alone.", hint="add --unflagged leave, or leave out --tar or --gate"
            )
        if self.images_to and self.gate is not None and self.unflagged == "link":
            raise ConfigError("Nothing can be linked into an object store.", hint="pass --unflagged copy or leave")
        if self.compare and not self.classify:
            raise ConfigError("compare needs a classifier.", hint="leave out --classifier none or --compare")
