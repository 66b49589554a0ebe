"""The tables of an evaluation: what the purifier costs, accuracy under attack, what the gate finds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from purifyctl.config import ATTACKS, format_eps
from purifyctl.config.evaluate import THREAT_MODELS
from purifyctl.evaluation.defences import NONE
from purifyctl.evaluation.ladder import WHAT_IT_KNOWS
from purifyctl.evaluation.summary import WORST
from purifyctl.metrics import percent
from purifyctl.report.paper import paper_tables
from purifyctl.report.percent import share
from purifyctl.report.sections import Section

Cell = Mapping[str, Any]


def sections(document: Mapping[str, Any], *, intervals: bool = True) -> list[Section]:
    """The tables in reading order: first what the purifier costs on clean images, then one for each threat model."""
    cells = document["cells"]
    found = [_price([cell for cell in cells if cell["threat_model"] == "clean"], intervals)]
    for threat_model in THREAT_MODELS[1:]:
        chosen = [cell for cell in cells if cell["threat_model"] == threat_model]
        if chosen:
            found.append(_under_attack(threat_model, chosen, intervals))
    if gated := [cell for cell in cells if cell.get("gate_auroc") is not None]:
        (clean,) = [cell for cell in cells if cell.get("gate_false_positives") is not None]
        found.append(_gate_section(gated, clean, document["settings"]["gate"]))
    found += [Section(*table) for table in paper_tables(document)] if document["paper_eps"] else []
    return found


def _price(cells: Sequence[Cell], intervals: bool) -> Section:
    rows = []
    for cell in cells:
        top1 = "clean_top1" if cell["defence"] == NONE else "purified_clean_top1"
        lost = 100 * (cell[top1] - cell["clean_top1"])
        changed = percent(cell["misclassification_rate"])
        confidence = (percent(cell["true_confidence"]), percent(cell["top1_confidence"]))
        figure = share(cell, top1) if intervals else percent(cell[top1])
        rows.append((cell["defence"], figure, f"{lost:+.1f}", changed, *confidence, _quality(cell)))
    columns = (
        "defence",
        "clean top-1",
        "points",
        "prediction changed",
        "confidence, true class",
        "predicted class",
        "PSNR, dB / SSIM",
    )
    n = cells[0]["n"] if cells else 0
    return Section(f"Clean: {WHAT_IT_KNOWS['clean']} (n = {n})", columns, rows)


def _under_attack(threat_model: str, cells: Sequence[Cell], intervals: bool) -> Section:
    """Robust top-1: one row per attack and budget, one column per defence."""
    defences = list(dict.fromkeys(cell["defence"] for cell in cells))
    attacks = list(dict.fromkeys(cell["attack"] for cell in cells))
    marks: dict[str, int] = {}
    rows: dict[tuple[str, float], list[str]] = {}
    for cell in sorted(cells, key=lambda cell: (attacks.index(cell["attack"]), cell["eps"])):
        key = (cell["attack"], cell["eps"])
        row = rows.setdefault(key, [cell["attack"], cell["eps_text"], str(cell["n"]), *["-"] * len(defences)])
        figure = share(cell, "robust_top1") if intervals else percent(cell["robust_top1"])
        row[3 + defences.index(cell["defence"])] = figure + _marks(cell, marks)
    title = threat_model.replace("_", "-").capitalize()
    notes = [f"†{number} {text}" for text, number in marks.items()]
    notes += [f"{name}: {text}." for name, text in _eps_notes(attacks)]
    if WORST in attacks:
        notes.append(
            f"{WORST.capitalize()}: an image is right only if it is right under every attack of this table that it has "
            "met. Attacks with a smaller n were run on the first photographs alone."
        )
    if not intervals:
        widest = max((b - a) / 2 for a, b in (cell["robust_top1_interval"] for cell in cells))
        notes.append(f"95 % intervals: up to ±{100 * widest:.0f} points; each is in evaluation.md.")
    columns = ("attack", "eps", "n", *defences)
    return Section(f"{title}: {WHAT_IT_KNOWS[threat_model]}; robust top-1", columns, list(rows.values()), notes, keys=3)


def _gate_section(cells: Sequence[Cell], clean: Cell, gate: Mapping[str, Any]) -> Section:
    """How many of the successful attacks the gate finds."""
    n = clean["gate_false_positives_n"]
    columns = ("threat model", "attack", "eps", "turned", "AUROC", "found", "at 1 % of clean ones", "at 5 %")
    rows = [
        (
            *(cell["threat_model"].replace("_", "-"), cell["attack"], cell["eps_text"], str(cell["gate_tpr_n"])),
            f"{cell['gate_auroc']:.3f}",
            *(share(cell, name) for name in ("gate_tpr", "gate_tpr_at_1%", "gate_tpr_at_5%")),
        )
        for cell in cells
    ]
    notes = [
        "Turned: photographs that are right when clean and wrong under attack; the gate should find these. Found: the "
        f"gate flags them at its own threshold for {gate['false_positive_rate']:.1%}, {gate['threshold']:.4g}, which "
        f"flags {share(clean, 'gate_false_positives')} of the {n} clean photographs here. The last two columns use the "
        "thresholds that flag this share of these very photographs."
    ]
    if any(cell["threat_model"] == "adaptive" for cell in cells):
        notes.append(
            "The adaptive attacker wants a wrong class, and passes the gate if that helps it. An attacker that always "
            "tried to pass the gate would pass it more often."
        )
    return Section("The gate: how many successful attacks it finds", columns, rows, notes, keys=3)


def _eps_notes(attacks: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What eps bounds, for the attacks that were published under another norm."""
    for known in ATTACKS:
        if known.eps_note and any(attack.startswith(known.label) for attack in attacks):
            yield known.label, known.eps_note


def _marks(cell: Cell, marks: dict[str, int]) -> str:
    """The footnotes of a cell's warnings; the same warning has the same number."""
    texts = [f"{warning['check']}: {warning['text']}." for warning in cell["warnings"]]
    return "".join(f" †{marks.setdefault(text, len(marks) + 1)}" for text in texts)


def _quality(cell: Cell) -> str:
    return "-" if cell["psnr"] is None else f"{cell['psnr']:.1f} / {cell['ssim']:.3f}"


def details(cells: Sequence[Cell]) -> Section:
    """What else was measured under attack, without a defence and for the defences that are networks."""
    columns = (
        "threat model", "attack", "eps", "defence", "n", "right when clean, too", "attack success", "misclassified",
        "recovery", "confidence, true class", "predicted class", "top-1 without rounding", "change, median / max",
        "PSNR, dB / SSIM",
    )  # fmt: skip
    rows = []
    for cell in cells:
        if cell["threat_model"] == "clean" or (cell["defence"] != NONE and cell["psnr"] is None):
            continue
        names = ("twice_right_top1", "attack_success_rate", "misclassification_rate", "recovery")
        figures = (share(cell, name) for name in names)
        changes = f"{255 * cell['median_delta']:.3g} / {format_eps(cell['max_delta'])}"
        means = (percent(cell[name]) for name in ("true_confidence", "top1_confidence"))
        rows.append(
            (
                *(cell["threat_model"], cell["attack"], cell["eps_text"], cell["defence"], str(cell["n"])),
                *(*figures, *means, percent(cell["robust_top1_float"]), changes, _quality(cell)),
            )
        )
    return Section("More about each attack", columns, rows)
