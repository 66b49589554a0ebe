"""Folder in; purified images, one row per input, and a summary out."""

from purifyctl.pipeline.job import RunOptions, RunResult, run

__all__ = ["RunOptions", "RunResult", "run"]
