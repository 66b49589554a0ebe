"""How often an attack succeeded: counts over rows, rates, and one line for people."""

from collections import Counter
from typing import Any

from purifyctl.attacking.batch import Row


def count(row: Row, tally: Counter[str]) -> None:
    """Add a row to the counts that `success` reads."""
    if row.label is None:
        return
    correct = row.clean_prediction == row.label
    tally["correct_when_clean"] += correct
    tally["flipped"] += correct and row.attacked_prediction != row.label
    tally["off_target_when_clean"] += row.target is not None and row.clean_prediction != row.target
    tally["reached_target"] += row.target is not None and bool(row.success)
    tally["attacked"] += 1


def success(tally: Counter[str], *, targeted: bool) -> dict[str, Any]:
    """Counts and rates of success; a rate is None if there are no images to compute it from."""

    def rate(part: str, whole: str) -> float | None:
        return round(tally[part] / tally[whole], 4) if tally[whole] else None

    figures: dict[str, Any] = {
        "attacked": tally["attacked"],
        "correct_when_clean": tally["correct_when_clean"],
        "flipped": tally["flipped"],
        "attack_success_rate": rate("flipped", "correct_when_clean"),
    }
    if targeted:
        figures |= {
            "off_target_when_clean": tally["off_target_when_clean"],
            "reached_target": tally["reached_target"],
            "target_success_rate": rate("reached_target", "off_target_when_clean"),
        }
    return figures


def describe(manifest: dict[str, Any]) -> str:
    """One line for people: what the attack achieved."""
    parts = [f"{manifest['flipped']} of {manifest['correct_when_clean']} flipped"]
    if manifest["target"]:
        parts.append(f"{manifest['reached_target']} of {manifest['off_target_when_clean']} brought to their target")
    model = manifest["threat_model"].replace("_", "-")
    return (
        f"{manifest['attack']['name']} {manifest['eps_255']} on {manifest['classifier']['name']}, {model}: "
        f"{', '.join(parts)}; labels: {manifest['labels']}, moved by at most {manifest['max_delta_255']}/255"
    )
