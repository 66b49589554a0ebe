"""What a listing of the source found, compared with the plan that was there."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from purifyctl import console
from purifyctl.sources.choice import SKIPPED, described

SHOWN = 3  # names of inputs that have changed or are gone


@dataclass
class Listed:
    """Counts of one listing."""

    is_first: bool  # there was no plan yet
    added: int = 0  # inputs that were not in the plan, and are now
    changed: int = 0  # planned inputs whose content is another one since then
    gone: int = 0  # planned inputs that are not among the inputs any more
    changed_such_as: list[str] = field(default_factory=list)
    gone_such_as: list[str] = field(default_factory=list)
    unwritable: Counter[str] = field(default_factory=Counter)  # with --keep-names: endings of formats not written here

    def count_changed(self, path: bytes) -> None:
        self.changed += 1
        _note(self.changed_such_as, path)

    def count_gone(self, path: bytes) -> None:
        self.gone += 1
        _note(self.gone_such_as, path)

    def count_unwritable(self, path: bytes) -> None:
        name = path.decode("utf-8", "backslashreplace")
        self.unwritable[PurePosixPath(name).suffix.lower() or "no ending"] += 1

    def facts(self) -> dict[str, int]:
        """For the summary."""
        return {"added": self.added, "changed": self.changed, "gone": self.gone}


def say_listed(listed: Listed | None, left_out: dict[str, dict[str, Any]], image_format: str | None) -> None:
    """Tell what was left out, and what is not as it was when the run was planned."""
    if said := described(left_out):
        console.note(
            f"Left out: {said}.{' --strict makes files fail that are no pictures.' if SKIPPED in left_out else ''}"
        )
    if listed is None:
        return
    if listed.added and not listed.is_first:
        added = "1 input is" if listed.added == 1 else f"{listed.added:,} inputs are"
        console.note(f"The source has grown: {added} added to this run.")
    if listed.changed:
        console.warn(
            f"{_are(listed.changed, listed.changed_such_as)} other content than when the run was planned. What is done "
            "stays; --on-existing overwrite, or another --out, does everything anew."
        )
    if listed.gone:
        console.warn(f"{_are(listed.gone, listed.gone_such_as, 'are')} gone from the source. Rows and images stay.")
    if listed.unwritable:
        kinds = ", ".join(f"{ending} {n:,}" for ending, n in listed.unwritable.most_common())
        console.note(f"Written as {str(image_format).upper()}, because their own formats cannot be written: {kinds}.")


def _are(n: int, such_as: Sequence[str], verb: str = "have") -> str:
    names = ", ".join(such_as) + (", ..." if n > len(such_as) else "")
    if n == 1:
        return f"1 input ({names}) {'is' if verb == 'are' else 'has'}"
    return f"{n:,} inputs ({names}) {verb}"


def _note(names: list[str], path: bytes) -> None:
    if len(names) < SHOWN:
        names.append(path.decode("utf-8", "backslashreplace"))
