"""What counts as right: the options of `attack` and `evaluate`. Those of `run`: `config/run.py`."""

from dataclasses import dataclass
from pathlib import Path

from purifyctl.config.classifier import LABELLED, ClassifierOptions
from purifyctl.config.options import option

PREDICTED, FOLDERS, NONE = "predicted", "folders", "none"  # words that --truth takes beside a file's name
TRUTH_HELP = "a CSV file with a path, relative to the source, and a class on each line"


@dataclass(frozen=True, kw_only=True)
class JudgedOptions(ClassifierOptions):
    """The options of a command that says whether a classifier is right."""

    truth: str = option(
        "",
        metavar="WHAT",
        recorded_as="labels",
        help="What counts as right: [bold]predicted[/] (the prediction on the clean image), [bold]folders[/] (named "
        f"after classes), or {TRUTH_HELP}.",
    )

    @property
    def truth_from(self) -> str:
        """`predicted`, `folders`, or a file's name; empty: the command's usual one."""
        if self.labels in LABELLED and not self.truth:  # as version 0.1.0 wrote it
            return FOLDERS if self.labels == "folder" else self.labels
        return self.truth

    @property
    def truth_file(self) -> Path | None:
        """The file with true classes; None: they come from somewhere else."""
        said = self.truth_from
        return None if said in ("", PREDICTED, FOLDERS) else Path(said)
