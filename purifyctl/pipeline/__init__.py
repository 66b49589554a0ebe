"""Folder in; purified images, one row per input, and a summary out."""

from purifyctl.pipeline.job import RunResult, dry_run, run
from purifyctl.pipeline.merge import merge
from purifyctl.pipeline.options import RunOptions

__all__ = ["RunOptions", "RunResult", "dry_run", "merge", "run"]
