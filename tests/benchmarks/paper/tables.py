"""The paper's Tables 2 to 5 in small, its figures beside ours, as Markdown; and the block of docs/reproduce.md.

    python -m tests.benchmarks.paper.tables runs/paper-small     # keeps the figures in docs/, and writes the block

The figures that the page shows lie in docs/notebook/paper-small.json. A test keeps the page in step with them.
"""

import json
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from purifyctl.files import write_atomically, write_json
from purifyctl.metrics import Share, percent
from tests.benchmarks.paper.figures import FIGURES
from tests.benchmarks.paper.measure import CLEAN
from tests.benchmarks.paper.plan import NONE, SHIPPED
from tests.benchmarks.paper.readings import READINGS, readings_table

DOCS = Path(__file__).parents[3] / "docs"
PAGE = DOCS / "reproduce.md"
KEPT = DOCS / "notebook" / "paper-small.json"
SAMPLES = "samples"  # in a run's folder: the figures from photographs that anybody may pass on
IMAGES = DOCS / "images" / "paper-small"
SHOWN = {
    6: "the losses of the paper's objective",
    7: "progress of pix2pix",
    8: "progress of the paper's objective",
    9: "both restore the class",
    10: "only the paper's objective does",
    11: "neither does",
}
BEGIN, END = "<!-- reproduce-small: written by tests/benchmarks/paper/tables.py -->", "<!-- reproduce-small: end -->"

ROWS = {
    NONE: "attacked, no purifier",
    "pix2pix": "pix2pix: cGAN + 100 L1",
    "paper": "the paper's objective: cGAN + 100 L1 + 1 perceptual",
    "ours": "ours, from new weights",
    "ours-shipped": "ours, from the shipped weights",
    SHIPPED: "the shipped purifier, not trained on this",
}
PUBLISHED: dict[str, dict[str, str]] = {  # in percent; the paper's classifiers and photographs
    "2": {CLEAN: "54.83", NONE: "24.64", "pix2pix": "44.78", "paper": "50.34"},
    "3": {NONE: "46.66", "pix2pix": "29.22", "paper": "14.09"},
    "4": {CLEAN: "76.1", NONE: "37.32", "pix2pix": "53.57", "paper": "69.2"},
    "5": {CLEAN: "55.35; 61.50", NONE: "0.9; 29.45", "paper": "48.12; 58.99"},
}
Cell = Mapping[str, Any]
Row = Sequence[str]


def tables(figures: Mapping[str, Any]) -> str:
    """All tables of a run, as Markdown."""
    cells: list[Cell] = figures["cells"]
    own, *others = list(figures["classifiers"])
    found = [cell["condition"] for cell in cells if cell["classifier"] == own and cell["condition"] != CLEAN]
    conditions = list(dict.fromkeys(found))
    fgsm = [name for name in conditions if name.startswith("fgsm")]
    pgd = [name for name in conditions if name.startswith("pgd")]
    fitted = {cell["trained_on"] for cell in cells if cell["classifier"] == own}
    n = figures["classifiers"][own]["n"]
    parts = [
        f"{figures['photographs']:,} photographs, {figures['minutes']:g} minutes of one core for each training "
        f"({figures['machine']['processor']}). Measured on {n} others, with true labels. "
        f"Classifier: `{own}`. Each purifier is trained on the attack and the budget of its column.",
        _table("Table 2: accuracy under FGSM", "2", cells, own, fgsm, _accuracy),
        _table("Table 3: misclassification under FGSM", "3", cells, own, fgsm, _misclassified, clean=False),
        _table("Table 4: average confidence under FGSM, of the true class / of the predicted class", "4", cells, own,
               fgsm, _confidence),
    ]  # fmt: skip
    trained_pgd = [name for name in pgd if name in fitted]
    if trained_pgd:
        parts.append(_table("PGD-10 with the same classifier", "", cells, own, trained_pgd, _accuracy))
    if untrained := [(f"fgsm-{name.rsplit('-', 1)[1]}", name) for name in pgd]:
        pairs = [pair for pair in untrained if pair[0] in fitted]
        parts.append(_across(cells, own, pairs))
    if others:
        conditions_5 = {cell["classifier"]: cell["condition"] for cell in cells if cell["condition"] != CLEAN}
        parts.append(_table_5(cells, others, conditions_5))
    parts.append(_steps(figures))
    return "\n\n".join(parts)


def block(figures: Mapping[str, Any] | None) -> str:
    """What docs/reproduce.md holds between its marks."""
    if figures is None:
        return f"{BEGIN}\n\nNo figures yet.\n\n{END}"
    parts = [tables(figures)]
    if figures.get("readings"):
        parts.append(readings_table(figures["readings"]))
    return "\n\n".join(filter(None, [BEGIN, *parts, _pictures(), END]))


def _pictures() -> str:
    """The figures that are kept."""
    kept = {number: text for number, text in SHOWN.items() if (IMAGES / f"figure-{number}.jpg").exists()}
    lines = [
        f"Figure {number}: {text}.\n\n![Figure {number}: {text}](images/{IMAGES.name}/figure-{number}.jpg)"
        for number, text in kept.items()
    ]
    return "\n\n".join(lines)


def kept() -> dict[str, Any] | None:
    """The figures that the page shows; None: there are none yet."""
    return json.loads(KEPT.read_text()) if KEPT.exists() else None


def with_block(page: str, figures: Mapping[str, Any] | None) -> str:
    """The page with its block written anew."""
    return re.sub(f"{re.escape(BEGIN)}.*?{re.escape(END)}", lambda _: block(figures), page, flags=re.S)


def _table(
    title: str,
    number: str,
    cells: Sequence[Cell],
    classifier: str,
    conditions: Sequence[str],
    show: Callable[[Cell], str],
    *,
    clean: bool = True,
) -> str:
    published = PUBLISHED.get(number, {})
    rows = []
    if clean:
        found = _find(cells, classifier, CLEAN, NONE)
        rows.append(["clean, no purifier", _published(published, CLEAN), *[show(found)] * len(conditions)])
    for method, label in ROWS.items():
        shown = [_fitted(cells, classifier, condition, method) for condition in conditions]
        if any(shown):
            rows.append([label, _published(published, method), *(show(cell) if cell else "-" for cell in shown)])
    return _markdown(title, ["", "the paper", *map(_title, conditions)], rows)


def _across(cells: Sequence[Cell], classifier: str, pairs: Sequence[tuple[str, str]]) -> str:
    """Purifiers that were trained on FGSM alone, under PGD-10 and when clean."""
    rows = []
    for method in list(ROWS)[1:]:
        row = [ROWS[method]]
        for trained_on, condition in pairs:
            for where in (condition, CLEAN):
                cell = _fitted(cells, classifier, where, method, trained_on)
                row.append(_accuracy(cell) if cell else "-")
        if set(row[1:]) != {"-"}:
            rows.append(row)
    heads = [head for trained_on, c in pairs for head in (_title(c), f"clean, fitted to {_title(trained_on)}")]
    return _markdown("Trained on FGSM alone: PGD-10, and clean photographs", ["", *heads], rows)


def _table_5(cells: Sequence[Cell], classifiers: Sequence[str], conditions: Mapping[str, str]) -> str:
    published = PUBLISHED["5"]
    rows = [["clean, no purifier", f"{published[CLEAN]} %"]]
    rows[0] += [_accuracy(_find(cells, name, CLEAN, NONE)) for name in classifiers]
    for method, label in ROWS.items():
        shown = [_fitted(cells, name, conditions[name], method) for name in classifiers]
        if any(shown):
            rows.append([label, _published(published, method), *(_accuracy(cell) if cell else "-" for cell in shown)])
    rows += [["ALP (Kannan et al. 2018)", "27.9; - %", *["-"] * len(classifiers)]]
    rows += [["Xie et al. 2019", "-; 49.7 %", *["-"] * len(classifiers)]]
    heads = [f"`{name}`, {_title(conditions[name])}" for name in classifiers]
    return _markdown(
        "Table 5: accuracy under PGD-10", ["", "the paper: Inception_V3; ResNet_101", *heads], rows
    )  # fmt: skip


def _steps(figures: Mapping[str, Any]) -> str:
    steps = ", ".join(f"{name} {count:,}" for name, count in figures["steps"].items())
    return (
        "Recovery in brackets: accuracy under attack over the clean accuracy without a purifier, with its 95 % "
        "bootstrap interval; after the semicolon, of photographs that are right when clean, too. "
        f"Steps in these minutes: {steps}."
    )  # fmt: skip


def _fitted(cells: Sequence[Cell], classifier: str, condition: str, method: str, trained_on: str = "") -> Cell | None:
    """The cell of the purifier that was trained on this condition, or on `trained_on`; or of one of no training."""
    for cell in cells:
        key = (cell["classifier"], cell["condition"], cell["method"])
        if key == (classifier, condition, method) and cell["trained_on"] in ("", trained_on or condition):
            return cell
    return None


def _find(cells: Sequence[Cell], classifier: str, condition: str, purifier: str) -> Cell:
    key = (classifier, condition, purifier)
    return next(cell for cell in cells if (cell["classifier"], cell["condition"], cell["purifier"]) == key)


def _accuracy(cell: Cell) -> str:
    text = str(Share(**cell["top1"]))
    if (cell["condition"] == CLEAN and cell["purifier"] == NONE) or not cell["recovery"]:
        return text
    shown = [f"{value:.2f} [{low:.2f}, {high:.2f}]" for value, low, high in (cell["recovery"],)]
    if cell["purifier"] != NONE:
        shown.append(f"{cell['recovery_held'][0]:.2f}")
    return f"{text} ({'; '.join(shown)})"


def _misclassified(cell: Cell) -> str:
    return str(Share(**cell["misclassified"]))


def _confidence(cell: Cell) -> str:
    return f"{percent(cell['true_confidence'])} / {percent(cell['top1_confidence'])}"


def _published(published: Mapping[str, str], row: str) -> str:
    return f"{published[row]} %" if row in published else "-"


def _title(condition: str) -> str:
    """`pgd-10-38` -> `PGD-10 38/255`."""
    attack, _, levels = condition.rpartition("-")
    return f"{attack.upper()} {levels}/255"


def _markdown(title: str, heads: Row, rows: Sequence[Row]) -> str:
    lines = [f"**{title}**", "", f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def main() -> None:
    """Keep the figures of a run in docs/, and write the page's block."""
    if len(sys.argv) > 1:
        out = Path(sys.argv[1])
        figures = json.loads((out / FIGURES).read_text())
        readings = out / READINGS
        figures["readings"] = json.loads(readings.read_text()) if readings.exists() else []
        write_json(KEPT, figures)
        IMAGES.mkdir(exist_ok=True)
        for number in SHOWN:
            (IMAGES / f"figure-{number}.jpg").unlink(missing_ok=True)
            if (drawn := out / SAMPLES / f"figure-{number}.jpg").exists():
                shutil.copyfile(drawn, IMAGES / drawn.name)
    write_atomically(PAGE, with_block(PAGE.read_text(), kept()).encode())


if __name__ == "__main__":
    main()
