"""An evaluation as files and on the terminal: evaluation.json, .csv, .md, and figures, all from one document."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from purifyctl import console
from purifyctl.config import ATTACKS, format_eps
from purifyctl.config.evaluate import THREAT_MODELS
from purifyctl.evaluation import EvaluateResult
from purifyctl.evaluation.defences import NONE
from purifyctl.evaluation.ladder import EOT, WHAT_IT_KNOWS
from purifyctl.evaluation.summary import WORST
from purifyctl.files import write_atomically, write_json
from purifyctl.metrics import percent
from purifyctl.report.figures import write_figures
from purifyctl.report.paper import paper_tables
from purifyctl.report.percent import share

Cell = Mapping[str, Any]
_LABELS = {"folder": "true labels, from the folders", "predicted": "predicted by the classifier on clean photographs"}


@dataclass(frozen=True)
class Section:
    """A table with what must be said about it."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def write_evaluation(result: EvaluateResult, out: Path) -> list[str]:
    """Write everything that a reader wants into `out`. Returns the names of the figures."""
    document = result.document
    figures = write_figures(document["cells"], result.examples, out)
    write_json(out / "evaluation.json", document)
    write_atomically(out / "evaluation.csv", as_csv(document["cells"]).encode())
    write_atomically(out / "evaluation.md", as_markdown(document, figures).encode())
    return figures


def show_evaluation(document: Mapping[str, Any], out: Path) -> None:
    """Print the tables, and under each what its marks mean. A terminal is too narrow for every interval."""
    for section in sections(document, intervals=False):
        console.table(section.title, section.columns, section.rows)
        for text in section.notes:
            console.note(text)
    console.note(f"{describe(document)}\nResults: {out}")


def sections(document: Mapping[str, Any], *, intervals: bool = True) -> list[Section]:
    """The tables in the order they are read: the purifier's price first, then one per threat model."""
    cells = document["cells"]
    found = [_price([cell for cell in cells if cell["threat_model"] == "clean"])]
    for threat_model in THREAT_MODELS[1:]:
        chosen = [cell for cell in cells if cell["threat_model"] == threat_model]
        if chosen:
            found.append(_under_attack(threat_model, chosen, intervals))
    if gated := [cell for cell in cells if cell.get("gate_auroc") is not None]:
        (clean,) = [cell for cell in cells if cell.get("gate_false_positives") is not None]
        found.append(_detection(gated, clean, document["settings"]["gate"]))
    found += [Section(*table) for table in paper_tables(document)] if document["paper_eps"] else []
    return found


def describe(document: Mapping[str, Any]) -> str:
    """What every figure stands on."""
    settings, machine = document["settings"], document["machine"]
    classifier = settings["classifier"]
    lines = [
        f"Classifier: {classifier['name']} (weights SHA-256 {classifier['sha256'][:12]}).",
        *(_describe_purifier(name, facts) for name, facts in settings["purifiers"].items()),
        f"Photographs: {document['n']} at {settings['image_size']}x{settings['image_size']}; "
        f"labels: {_LABELS[settings['labels']]}; seed {settings['seed']}.",
        *(
            [
                f"Gate: SHA-256 {settings['gate']['sha256'][:12]}, at a false-positive rate of "
                f"{settings['gate']['false_positive_rate']:.1%} (threshold {settings['gate']['threshold']:.4g})."
            ]
            if "gate" in settings
            else []
        ),
        "eps is L-infinity in [0, 1]; attacked images are rounded to whole grey levels, as a PNG file does. "
        "Brackets: 95 % Wilson interval.",
        f"Machine: {machine['processor']}, {machine['cores']} cores, {machine['device']}; "
        f"torch {settings['versions']['torch']}; batch {settings['batch_size']}; FP32.",
    ]
    if settings["random"]:
        lines.append(f"Random at inference: {', '.join(settings['random'])}; gradients are averaged over {EOT} passes.")
    for name, top1 in document["surrogate_clean_top1"].items():
        lines.append(f"Surrogate {name}: {percent(top1)} top-1 on the clean photographs.")
    lines += [f"Not measured: {text}." for text in document["not_measured"]]
    if document["unreadable"]:
        lines.append(f"{len(document['unreadable'])} photographs could not be read and are not counted.")
    if document["unlabelled"]:
        lines.append(f"{document['unlabelled']} photographs without a label from their folder were left out.")
    return "\n".join(lines)


def _describe_purifier(name: str, facts: Mapping[str, Any]) -> str:
    guides = ", ".join(facts["guided_by"]) or "classifiers that its checkpoint does not name"
    return f"{name}: SHA-256 {facts['sha256'][:12]}, guided by {guides} in training; {_overlap(facts)}."


def _overlap(facts: Mapping[str, Any]) -> str:
    """Whether the purifier knows these photographs."""
    known = facts["known_photographs"]
    if known is None:
        return "its checkpoint does not tell its photographs"
    at_least = "at least " if facts["known_by_sample"] else ""
    if known:
        what = "have name and size of ones that it was trained or validated with: **that flatters it**"
        return f"{at_least}{known} of these photographs {what}"
    return f"trained with none of these photographs{', as far as a sample shows' if at_least else ''}"


def _price(cells: Sequence[Cell]) -> Section:
    rows = []
    for cell in cells:
        top1 = "clean_top1" if cell["defence"] == NONE else "purified_clean_top1"
        lost = 100 * (cell[top1] - cell["clean_top1"])
        changed = percent(cell["misclassification_rate"])
        confidence = (percent(cell["true_confidence"]), percent(cell["top1_confidence"]))
        rows.append((cell["defence"], share(cell, top1), f"{lost:+.1f}", changed, *confidence, _quality(cell)))
    columns = (
        "defence",
        "clean top-1",
        "points",
        "prediction changed",
        "confidence, true class",
        "predicted class",
        "PSNR / SSIM",
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
            "met, of which those with a smaller n are met by the first photographs alone."
        )
    if not intervals:
        widest = max((b - a) / 2 for a, b in (cell["robust_top1_interval"] for cell in cells))
        notes.append(f"95 % intervals: up to ±{100 * widest:.0f} points; each is in evaluation.md.")
    columns = ("attack", "eps", "n", *defences)
    return Section(f"{title}: {WHAT_IT_KNOWS[threat_model]}; robust top-1", columns, list(rows.values()), notes)


def _detection(cells: Sequence[Cell], clean: Cell, gate: Mapping[str, Any]) -> Section:
    """What the gate finds of what succeeds."""
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
        "Turned: photographs that are right when clean and wrong under attack; these are to be found. Found: at the "
        f"gate's own threshold for {gate['false_positive_rate']:.1%}, {gate['threshold']:.4g}, which flags "
        f"{share(clean, 'gate_false_positives')} of the {n} clean photographs here; the last two columns: at "
        "thresholds that flag so many of these very photographs."
    ]
    if any(cell["threat_model"] == "adaptive" for cell in cells):
        notes.append(
            "The adaptive attacker wants a wrong class, and passes the gate where that serves it; one that wanted to "
            "pass in any case would pass more often."
        )
    return Section("The gate: what it finds of what succeeds", columns, rows, notes)


def _eps_notes(attacks: Sequence[str]) -> Iterator[tuple[str, str]]:
    """What eps bounds, for those of these attacks that were published under another norm."""
    for known in ATTACKS:
        if known.eps_note and any(attack.startswith(known.label) for attack in attacks):
            yield known.label, known.eps_note


def _marks(cell: Cell, marks: dict[str, int]) -> str:
    """The footnotes of a cell's warnings; the same warning has the same number."""
    texts = [f"{warning['check']}: {warning['text']}." for warning in cell["warnings"]]
    return "".join(f" †{marks.setdefault(text, len(marks) + 1)}" for text in texts)


def _quality(cell: Cell) -> str:
    return "-" if cell["psnr"] is None else f"{cell['psnr']:.1f} dB / {cell['ssim']:.3f}"


def _details(cells: Sequence[Cell]) -> Section:
    """What else was measured under attack: for no defence, and for the defences that are networks."""
    columns = (
        "threat model", "attack", "eps", "defence", "n", "right when clean, too", "attack success", "misclassified",
        "recovery", "confidence, true class", "predicted class", "top-1 without rounding", "change, median / max",
        "PSNR / SSIM",
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


def as_csv(cells: Sequence[Cell]) -> str:
    """One line per cell: every figure in [0, 1], each interval as two columns."""
    stream = io.StringIO()
    flat = [dict(_flat(cell)) for cell in cells]
    writer = csv.DictWriter(stream, list(dict.fromkeys(name for row in flat for name in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat)
    return stream.getvalue()


def _flat(cell: Cell) -> Iterator[tuple[str, Any]]:
    for name, value in cell.items():
        if name.endswith("_interval"):
            low, high = value or (None, None)
            yield from ((name.replace("_interval", "_low"), low), (name.replace("_interval", "_high"), high))
        elif name == "warnings":
            yield name, "; ".join(f"{warning['check']}: {warning['text']}" for warning in value)
        else:
            yield name, value


def as_markdown(document: Mapping[str, Any], figures: Sequence[str] = ()) -> str:
    """The report that a reader wants, figures included by name."""
    lines = ["# Evaluation", "", *describe(document).replace("\n", "\n\n").splitlines(), ""]
    lines += [f"    {document['command']}", ""]
    for section in sections(document):
        lines += _markdown(section)
    lines += ["## Masking checks", "", "A † beside a number above is one of these, raised.", ""]
    raised = {warning["check"] for cell in document["cells"] for warning in cell["warnings"]}
    for name, check in document["checks"].items():
        state = "**raised**" if name in raised else "not raised"
        lines.append(f"- {name} ({state}): raised if {check['raised_if']}. {check['explanation']}")
    lines += ["", *(f"![{name}]({name})" for name in figures), ""]
    lines += _markdown(_details(document["cells"]))
    lines += [
        "Right when clean, too: right under attack and when left alone, of all; an attacker may choose to do nothing. "
        "Attack success: of the images that the same pipeline gets right when clean, those it gets wrong under attack. "
        "Misclassified: the prediction differs from the undefended classifier's on the clean image. Recovery: top-1 "
        "over the undefended clean top-1 of the same images. Top-1 without rounding is missing where the attack works "
        "on 8-bit images itself.",
        "",
    ]
    cost = [(entry["rung"], str(entry["images"]), f"{entry['ms_per_image']:.0f}") for entry in document["cost"]]
    searched = tuple(attack.label for attack in ATTACKS if attack.family == "nearest boundary")
    notes = []
    if any(cell["attack"].startswith(searched) for cell in document["cells"]):
        names = " and ".join(searched)
        notes.append(f"{names} search once for all budgets; the time stands beside the budget that came first.")
    lines += _markdown(Section("What it took", ("rung", "images", "ms per image, all defences"), cost, notes))
    return "\n".join(lines)


def _markdown(section: Section) -> list[str]:
    lines = [f"## {section.title}", ""]
    lines += [f"| {' | '.join(cells)} |" for cells in (section.columns, ["---"] * len(section.columns), *section.rows)]
    return [*lines, "", *(line for note in section.notes for line in (note, ""))]
