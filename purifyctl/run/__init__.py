"""Folder in; purified images, one row per input, and a summary out."""

from purifyctl.config.run import RunOptions
from purifyctl.run.job import RunResult, dry_run, run
from purifyctl.run.merge import merge

__all__ = ["RunOptions", "RunResult", "dry_run", "merge", "run"]
