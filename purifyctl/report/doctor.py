"""What `doctor` found, as a table on the terminal."""

from collections.abc import Sequence

from purifyctl import console
from purifyctl.doctor import Check, Status

_WORST_FIRST: tuple[Status, ...] = ("failed", "missing", "ok")


def show_checks(checks: Sequence[Check]) -> None:
    """Print the checks as a table, and then what failed. Checks with one subject, name and status share a row."""
    merged: dict[tuple[str, str, Status, str], dict[str, None]] = {}
    for check in checks:
        subject, name, *_ = f"{check.id}.".split(".")
        merged.setdefault((subject, name, check.status, check.fix), {})[check.detail] = None
    rows: list[tuple[str, str, Status, list[str]]] = []
    failures: list[tuple[str, str]] = []
    above = ("", "")
    first_of: dict[tuple[str, str], int] = {}
    for place, (subject, name, _, _) in enumerate(merged):
        first_of.setdefault((subject, name), place)
    worst_first = sorted(merged, key=lambda row: (first_of[row[:2]], _WORST_FIRST.index(row[2])))
    for subject, name, status, fix in worst_first:
        details = merged[subject, name, status, fix]
        found = ", ".join(details)
        first = "" if subject == above[0] else subject
        second = "" if (subject, name) == above else name
        rows.append((first, second, status, [found, f"→ {fix}"] if fix else [found]))
        if status == "failed":
            failures.append((f"{subject} {name}".strip() + f": {found}", fix))
        above = (subject, name)
    console.sections(("subject", "check", "status", "found"), rows)
    for failure in failures:  # again, in lines that are not cut and can be copied; --quiet shows them, too
        console.error(*failure)
    if not failures:
        console.note("purifyctl run works on this machine.")
