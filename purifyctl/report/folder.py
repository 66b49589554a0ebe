"""`purifyctl report`: find out what a folder holds, and write its page."""

from pathlib import Path
from typing import Any

from purifyctl import console
from purifyctl.config.folders import ATTACK, EVALUATION, EVALUATION_RECORDS, GATE, REPORT, TRAINING
from purifyctl.config.run import SETTINGS
from purifyctl.errors import ConfigError

# the file that marks a folder of each command, and what the page is about
MARKS = {SETTINGS: "run", ATTACK: "attack", TRAINING: "training", EVALUATION: "evaluation", GATE: "gate"}


def write_report_of(folder: Path, file: Path | None = None) -> dict[str, Any]:
    """Write the page of what a folder holds. Returns what that is, the page, and the main figures.

    Raises
    ------
    ConfigError
        It holds no run, attack, training, gate or evaluation, or cannot be read; or the page cannot be written.
    """
    kinds = [kind for mark, kind in MARKS.items() if (folder / mark).is_file()]
    if kinds == ["evaluation"] and not (folder / EVALUATION_RECORDS).is_dir():
        kinds = []  # some other program's settings.json
    if not kinds:
        what = "does not exist" if not folder.exists() else "holds no run, attack, training, gate or evaluation"
        raise ConfigError(
            f"{folder} {what}.", hint="name the --out of purifyctl run, attack, train, train-gate or evaluate"
        )
    file = file or folder / REPORT
    return {"kind": kinds[0], "report": str(file), **_write(kinds[0], folder, file)}


def _write(kind: str, folder: Path, file: Path) -> dict[str, Any]:
    """Write one kind of page. Each kind imports only what it needs."""
    if kind == "run":
        from purifyctl.report.run import write_report

        return write_report(folder, file)
    if kind == "attack":
        from purifyctl.report.attack import write_attack_report

        return write_attack_report(folder, file)
    if kind == "training":
        from purifyctl.report.training import write_training_report

        return write_training_report(folder, file)
    if kind == "gate":
        from purifyctl.report.gate import write_gate_report

        return write_gate_report(folder, file)
    from purifyctl.report.evaluation_page import write_evaluation_report

    return write_evaluation_report(folder, file)


def say_what_was_written(figures: dict[str, Any]) -> None:
    """Print the page's path, and what it covers."""
    done = f" of {figures['rows']:,} of {figures['inputs']:,} inputs" if figures["kind"] == "run" else ""
    state = "" if figures["finished"] else ", not finished"
    console.note(f"Page about the {figures['kind']}{done}{state}: {figures['report']}")
