"""What the steps of a trial found, as JSON and as Markdown.

A step writes its figures as it finds them, so that one that is ended early leaves those that it had.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

TAIL = 20  # lines of the log of a step that failed


@dataclass(frozen=True)
class Done:
    """A step that was performed."""

    name: str
    what: str
    status: str  # ok, failed (its exit code), out of time
    seconds: float
    limit_s: float
    log: Path
    result: Path  # the figures that it wrote; there may be none


class Figures:
    """The figures of one step, on disk."""

    def __init__(self, out: Path, step: str) -> None:
        self._file = out / "results" / f"{step}.json"
        self._file.parent.mkdir(parents=True, exist_ok=True)
        self.rows: list[dict[str, Any]] = []

    def add(self, what: str, value: Any, unit: str = "", note: str = "") -> None:
        """Note one figure. `value`: a number, or words where there is none."""
        self.rows.append({"what": what, "value": value, "unit": unit, "note": " ".join(str(note).split())})
        print(f"{what}: {_shown(value)} {unit} {note}".rstrip(), flush=True)
        temporary = self._file.with_suffix(".writing")
        temporary.write_text(json.dumps(self.rows, indent=1))
        temporary.replace(self._file)


def read_figures(file: Path) -> list[dict[str, Any]]:
    """The figures of a step; none if it wrote none."""
    try:
        found: list[dict[str, Any]] = json.loads(file.read_text())
    except FileNotFoundError:
        return []
    return found


def value_of(out: Path, step: str, what: str) -> Any:
    """One figure of an earlier step; None: there is no such figure."""
    rows = read_figures(out / "results" / f"{step}.json")
    return next((row["value"] for row in rows if row["what"] == what), None)


def write_report(done: Sequence[Done], out: Path, device: str, seconds: float) -> None:
    """Write trial.json and trial.md."""
    name = value_of(out, "machine", "device") or device
    steps = [
        {
            "name": step.name,
            "status": step.status,
            "seconds": round(step.seconds, 1),
            "limit_s": round(step.limit_s, 1),
            "log": os.path.relpath(step.log, out),
            "figures": read_figures(step.result),
        }
        for step in done
    ]
    date = datetime.now(UTC).isoformat(timespec="seconds")
    whole = {"device": name, "asked_for": device, "date": date, "seconds": round(seconds, 1), "steps": steps}
    (out / "trial.json").write_text(json.dumps(whole, indent=1) + "\n")
    (out / "trial.md").write_text("\n".join(_markdown(done, name, seconds)) + "\n")


def _markdown(done: Sequence[Done], device: str, seconds: float) -> list[str]:
    good = sum(step.status == "ok" for step in done)
    lines = [
        f"# {device}",
        "",
        f"{datetime.now(UTC):%d %B %Y}, {seconds:.0f} s; {good} of {len(done)} steps are ok.",
        "",
    ]
    lines += ["| step | | status | seconds | limit |", "|---|---|---|---|---|"]
    lines += [f"| {s.name} | {s.what} | {s.status} | {s.seconds:.0f} | {s.limit_s:.0f} |" for s in done]
    for step in done:
        if rows := read_figures(step.result):
            lines += ["", f"## {step.name}: {step.what}", "", "| | figure | |", "|---|---|---|"]
            cells = ((row["what"], f"{_shown(row['value'])} {row['unit']}".strip(), row["note"]) for row in rows)
            lines += [f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in cells]
        if step.status != "ok":
            tail = step.log.read_text(errors="replace").splitlines()[-TAIL:]
            lines += ["", f"The end of the log of {step.name}:", "", *(f"    {line}" for line in tail)]
    return lines


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return str(value)
