"""An evaluation as files (evaluation.json, .csv, .md, figures) and on the terminal, all from one document."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from purifyctl import console
from purifyctl.config import ATTACKS
from purifyctl.config.folders import EVALUATION_FIGURES
from purifyctl.evaluation import EvaluateResult
from purifyctl.evaluation.ladder import EOT
from purifyctl.files import write_atomically, write_json
from purifyctl.metrics import percent
from purifyctl.report.evaluation_tables import details, sections
from purifyctl.report.figures import write_figures
from purifyctl.report.sections import Section
from purifyctl.visible import visible_cell

Cell = Mapping[str, Any]
_LABELS = {"folder": "true labels, from the folders", "predicted": "predicted by the classifier on clean photographs"}


def write_evaluation(result: EvaluateResult, out: Path) -> list[str]:
    """Write all files into `out`. Returns the names of the figures."""
    document = result.document
    figures = write_figures(document["cells"], result.examples, out)
    write_json(out / EVALUATION_FIGURES, document)
    write_atomically(out / "evaluation.csv", as_csv(document["cells"]).encode())
    write_atomically(out / "evaluation.md", as_markdown(document, figures).encode())
    return figures


def show_evaluation(document: Mapping[str, Any], out: Path) -> None:
    """Print the tables, and under each the meaning of its marks. A terminal is too narrow for all intervals."""
    for section in sections(document, intervals=False):
        console.table(section.title, section.columns, section.rows, keys=section.keys)
        for text in section.notes:
            console.note(text)
    console.note(*describe(document), f"Results: {out}")


def describe(document: Mapping[str, Any]) -> list[str]:
    """Lines: the facts behind all figures: classifier, purifiers, photographs, machine, and what was not measured."""
    settings, machine = document["settings"], document["machine"]
    classifier = settings["classifier"]
    lines = [
        f"Classifier: {classifier['name']} (weights SHA-256 {classifier['sha256'][:12]}).",
        *(_describe_purifier(name, facts) for name, facts in settings["purifiers"].items()),
        f"Photographs: {document['n']} at {_size(settings['image_size'])}; "
        f"labels: {_labels(settings['labels'])}; seed {settings['seed']}.",
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
        lines.append(f"{len(document['unreadable'])} photographs could not be read and do not count.")
    if document["unlabelled"]:
        lines.append(f"{document['unlabelled']} photographs without a label from their folder were left out.")
    return lines


def _labels(recorded: str) -> str:
    return _LABELS.get(recorded) or f"true labels, from {recorded.rpartition(' ')[0]}"


def _describe_purifier(name: str, facts: Mapping[str, Any]) -> str:
    guides = ", ".join(facts["guided_by"]) or "classifiers that its checkpoint does not name"
    return f"{name}: SHA-256 {facts['sha256'][:12]}, guided by {guides} in training; {_overlap(facts)}."


def _overlap(facts: Mapping[str, Any]) -> str:
    """Whether the purifier was trained with these photographs."""
    known = facts["known_photographs"]
    if known is None:
        return "its checkpoint does not name its photographs"
    at_least = "at least " if facts["known_by_sample"] else ""
    if known:
        what = "have the name and size of photographs that it was trained or validated with: **that flatters it**"
        return f"{at_least}{known} of these photographs {what}"
    return f"trained with none of these photographs{', as far as a sample shows' if at_least else ''}"


def as_csv(cells: Sequence[Cell]) -> str:
    """One line per cell. Every figure is in [0, 1], and each interval has two columns."""
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
            yield name, visible_cell(value)


def as_markdown(document: Mapping[str, Any], figures: Sequence[str] = ()) -> str:
    """The report as Markdown. It includes the figures by name."""
    lines = ["# Evaluation", "", *(text for line in describe(document) for text in (line, ""))]
    lines += [f"    {document['command']}", ""]
    for section in sections(document):
        lines += _markdown(section)
    lines += ["## Masking checks", "", "A † beside a number above stands for a check that was raised.", ""]
    raised = {warning["check"] for cell in document["cells"] for warning in cell["warnings"]}
    for name, check in document["checks"].items():
        state = "**raised**" if name in raised else "not raised"
        lines.append(f"- {name} ({state}): raised if {check['raised_if']}. {check['explanation']}")
    lines += ["", *(f"![{name}]({name})" for name in figures), ""]
    lines += _markdown(details(document["cells"]))
    lines += [
        "Right when clean, too: the share of all images that are right under attack and when clean, because an "
        "attacker may choose to do nothing. Attack success: the share of images that are wrong under attack, among "
        "those that the same defence gets right when clean. Misclassified: the prediction differs from the undefended "
        "classifier's on the clean image. Recovery: top-1 divided by the undefended clean top-1 of the same images. "
        "Top-1 without rounding is missing if the attack itself works on 8-bit images.",
        "",
    ]
    cost = [(entry["rung"], str(entry["images"]), f"{entry['ms_per_image']:.0f}") for entry in document["cost"]]
    searched = tuple(attack.label for attack in ATTACKS if attack.family == "nearest boundary")
    notes = []
    if any(cell["attack"].startswith(searched) for cell in document["cells"]):
        names = " and ".join(searched)
        notes.append(f"{names} search once for all budgets; the first budget's row shows the time.")
    lines += _markdown(Section("Cost", ("rung", "images", "ms per image, all defences"), cost, notes))
    return "\n".join(lines)


def _markdown(section: Section) -> list[str]:
    lines = [f"## {section.title}", ""]
    lines += [f"| {' | '.join(cells)} |" for cells in (section.columns, ["---"] * len(section.columns), *section.rows)]
    return [*lines, "", *(line for note in section.notes for line in (note, ""))]


def _size(size: int | str) -> str:
    return "their own size" if size == "original" else f"{size}x{size}"
