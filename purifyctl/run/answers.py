"""What people ask first after a run: which predictions did purifying change, and which inputs failed?"""

import heapq
from collections.abc import Mapping
from typing import Any

from purifyctl.run.rows import NOT_FAILED

SHOWN = 10  # changed predictions and failed inputs that a summary names
ANSWERS_NEED = (
    "path", "status", "error", "true_index", "true_label", "top_index", "top_label", "top_probability",
    "unpurified_top_index", "unpurified_top_label", "unpurified_top_probability", "divergence",
)  # fmt: skip


class Answers:
    """Counts, and the few rows that are worth naming, part by part."""

    def __init__(self) -> None:
        self._compared = self._changed = self._failed = self._predicted = 0
        self._labelled = self._right_before = self._right_after = 0  # of the images that were compared
        self._first_changed: list[tuple[float, int, dict[str, Any]]] = []  # a heap: divergence, -place, what is said
        self._first_failed: list[dict[str, Any]] = []
        self._only: dict[str, Any] | None = None  # the predictions of the first image

    def add(self, columns: Mapping[str, list[Any]]) -> None:
        """Count rows, given as lists by column (`ANSWERS_NEED`)."""
        for i, status in enumerate(columns["status"]):
            if status not in NOT_FAILED:
                self._failed += 1
                if len(self._first_failed) < SHOWN:
                    self._first_failed.append({name: columns[name][i] for name in ("path", "status", "error")})
            after, before = columns["top_index"][i], columns["unpurified_top_index"][i]
            if after:
                self._predicted += 1
                self._only = self._only or _top(columns, i)
            if after and before:
                self._add_compared(columns, i, before[0], after[0])

    def _add_compared(self, columns: Mapping[str, list[Any]], i: int, before: int, after: int) -> None:
        self._compared += 1
        true = columns["true_index"][i]
        if true is not None:
            self._labelled += 1
            self._right_before += before == true
            self._right_after += after == true
        if before == after:
            return
        self._changed += 1
        said = {
            "path": columns["path"][i],
            "before": columns["unpurified_top_label"][i][0],
            "before_probability": round(columns["unpurified_top_probability"][i][0], 4),
            "after": columns["top_label"][i][0],
            "after_probability": round(columns["top_probability"][i][0], 4),
            "true": columns["true_label"][i],
            "right": None if true is None else after == true,
        }
        entry = (columns["divergence"][i] or 0.0, -self._changed, said)
        if len(self._first_changed) < SHOWN:
            heapq.heappush(self._first_changed, entry)
        else:
            heapq.heappushpop(self._first_changed, entry)

    def figures(self) -> dict[str, Any]:
        """`changed`: of the images that were classified before and after; the clearest changes first (Jensen-Shannon
        divergence). `failed`: the first ones in the plan's order. `only_image`: its best classes, if it is alone.
        """
        changed = {
            "n": self._changed,
            "of": self._compared,
            "labelled": self._labelled,
            "right_before": self._right_before,
            "right_after": self._right_after,
            "first": [said for *_, said in sorted(self._first_changed, key=lambda entry: entry[:2], reverse=True)],
        }
        return {
            **({"changed": changed} if self._compared else {}),
            "failed": {"n": self._failed, "first": self._first_failed},
            **({"only_image": self._only} if self._only and self._predicted == 1 else {}),
        }


def _top(columns: Mapping[str, list[Any]], i: int) -> dict[str, Any]:
    """The best classes of one image, before and after it was purified: `[name, probability]` each."""
    return {
        "path": columns["path"][i],
        **{
            name: [
                [label, round(probability, 4)]
                for label, probability in zip(
                    columns[f"{kind}top_label"][i], columns[f"{kind}top_probability"][i], strict=True
                )
            ]
            for name, kind in (("before", "unpurified_"), ("after", ""))
        },
        "true": columns["true_label"][i],
    }
