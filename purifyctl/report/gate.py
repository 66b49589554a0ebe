"""A trained gate's folder as one HTML page: what it finds of each attack, its thresholds, its recipe."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from purifyctl.config.folders import GATE
from purifyctl.errors import ConfigError
from purifyctl.metrics import Share, percent
from purifyctl.report.page import flat, write_page
from purifyctl.report.sections import Section
from purifyctl.strict_json import parse_json


def write_gate_report(folder: Path, file: Path) -> dict[str, Any]:
    """Write the page of a gate that is trained. Returns its main figures.

    Raises
    ------
    ConfigError
        The gate cannot be read, or the file cannot be written.
    """
    try:
        with safe_open(folder / GATE, framework="numpy") as gate:
            about = parse_json((gate.metadata() or {}).get("about", "{}"))
        found, recipe = dict(about["held_out"]), dict(about["recipe"])
        table, thresholds = _found(found), _thresholds(found)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{folder / GATE} cannot be read: {error}.", hint="name the --out of train-gate") from None
    write_page(
        file,
        "gate",
        folder,
        held_out=found,
        headline=_headline(found),
        table=table,
        thresholds=thresholds,
        recipe=flat(recipe),
        about=flat({name: value for name, value in about.items() if name not in ("recipe", "held_out", "photographs")}),
    )
    return {"finished": True, "held_out": found}


def _headline(found: Mapping[str, Any]) -> tuple[str, Share, str] | None:
    """The hardest attack, the share of it that is found, and the lowest rate of clean photographs. None: no attack
    changed a prediction.
    """
    if not found["thresholds"]:
        return None
    rate = min(found["thresholds"], key=float)
    successful = {name: one for name, one in found["attacked"].items() if one["n"]}
    if not successful:
        return None
    hardest = min(successful, key=lambda name: (successful[name]["tpr"][rate], name))
    return hardest, _share(successful[hardest], rate), percent(float(rate))


def _found(found: Mapping[str, Any]) -> Section:
    rates = list(found["thresholds"])
    rows = []
    for name, one in found["attacked"].items():
        shares = [percent(one["tpr"][rate]) if one["n"] else "-" for rate in rates]
        rows.append((name, f"{one['n']:,}", f"{one['auroc']:.4f}" if one["n"] else "-", *shares))
    columns = ("attack", "photographs", "AUROC", *(f"found at {percent(float(rate))}" for rate in rates))
    return Section("What it finds", columns, rows)


def _thresholds(found: Mapping[str, Any]) -> Section:
    rows = [(percent(float(rate)), f"{score:.6g}") for rate, score in found["thresholds"].items()]
    return Section("Thresholds", ("clean photographs that may be flagged", "gate score"), rows)


def _share(one: Mapping[str, Any], rate: str) -> Share:
    return Share(round(one["tpr"][rate] * one["n"]), one["n"])
