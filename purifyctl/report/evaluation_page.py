"""An evaluation's folder as one HTML page: the ladder with intervals, masking checks, figures and examples."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from purifyctl.config.evaluate import THREAT_MODELS
from purifyctl.config.folders import EVALUATION, EVALUATION_FIGURES, EVALUATION_RECORDS
from purifyctl.errors import ConfigError
from purifyctl.evaluation.defences import NONE, PURIFIER
from purifyctl.evaluation.summary import WORST
from purifyctl.report.evaluation import describe
from purifyctl.report.evaluation_tables import details, sections
from purifyctl.report.page import flat, write_page
from purifyctl.strict_json import read_json

TITLES = {  # of the figures that an evaluation may have drawn, in the page's order
    **{f"accuracy-{model}.png": f"Accuracy under attack, {model.replace('_', '-')}" for model in THREAT_MODELS[1:]},
    "strip-undone.png": "Attacks that the purifier undid",
    "strip-not-undone.png": "Attacks that the purifier did not undo",
    "confidence.png": "Confidence",
}


def write_evaluation_report(folder: Path, file: Path) -> dict[str, Any]:
    """Write the page of an evaluation, finished or not. Returns its main figures.

    Raises
    ------
    ConfigError
        Its files cannot be read, or the file cannot be written.
    """
    try:
        settings = read_json(folder / EVALUATION)
        document = read_json(made) if (made := folder / EVALUATION_FIGURES).is_file() else None
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} cannot be read: {error}.", hint="name a whole folder") from None
    chunks = {name: len(list((folder / EVALUATION_RECORDS / name).glob("part-*"))) for name in settings["ladder"]}
    most = max(chunks.values(), default=0)
    figures: dict[str, Any] = {
        "finished": document is not None,
        "rungs": len(chunks),
        "begun": sum(n > 0 for n in chunks.values()),
        "n": document["n"] if document else settings["photographs"]["n"],
    }
    raised = {warning["check"] for cell in document["cells"] for warning in cell["warnings"]} if document else set()
    write_page(
        file,
        "evaluation",
        folder,
        **figures,
        chunks=most,
        lines=_main_lines(document) if document else [],
        sections=[*sections(document), details(document["cells"])] if document else [],
        left={"Clean": 1, "More": 4},
        checks=[(name, name in raised, check) for name, check in document["checks"].items()] if document else [],
        pictures=[(title, _png(made)) for name, title in TITLES.items() if (made := folder / name).is_file()],
        about=describe(document) if document else [],
        facts=flat(settings),
    )
    return figures


def _main_lines(document: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """What the page begins with: per threat model and budget, the worst attack's cell with and without the purifier."""
    found: dict[str, dict[str, Any]] = {}
    for cell in document["cells"]:
        if cell["defence"] not in (NONE, PURIFIER) or cell["threat_model"] == "clean":
            continue
        title = f"{cell['threat_model'].replace('_', '-')}, {cell['eps_text']}"
        line = found.setdefault(title, {})
        known = line.get(cell["defence"])
        if (
            known is None
            or cell["attack"] == WORST
            or (known["attack"] != WORST and cell["robust_top1"] < known["robust_top1"])
        ):
            line[cell["defence"]] = cell
    return [(title, {"none": line.get(NONE), "purifier": line.get(PURIFIER)}) for title, line in found.items()]


def _png(file: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"
