"""Folder in; purified images, one row per input, and a summary out."""

from purifyctl.config.run import RunOptions
from purifyctl.run.call import RunResult, run
from purifyctl.run.merge import merge
from purifyctl.run.preview import dry_run

__all__ = ["RunOptions", "RunResult", "dry_run", "merge", "run"]
