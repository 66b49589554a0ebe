"""A training's folder as one HTML page: losses, held-out figures of each phase, the recipe. It may still be at work."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import SafetensorError, safe_open

from purifyctl.config.folders import PURIFIER, TRAINING, TRAINING_LOG
from purifyctl.errors import ConfigError
from purifyctl.metrics import Share, percent
from purifyctl.report.page import data_uri, flat, write_page
from purifyctl.report.plots import curves_plot, losses_plot
from purifyctl.report.sections import Section
from purifyctl.strict_json import parse_json, read_json

STRIP = 2600  # pixels; the longer side of the strip of held-out photographs


def write_training_report(folder: Path, file: Path) -> dict[str, Any]:
    """Write the page of a training that is finished, under way or stopped. Returns its main figures.

    Raises
    ------
    ConfigError
        Its record cannot be read, or the file cannot be written.
    """
    try:
        begun = read_json(folder / TRAINING)
        recipe = dict(begun["recipe"])
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(f"{folder / 'training.json'} cannot be read: {error}.", hint="name a whole folder") from None
    lines = _log(folder / TRAINING_LOG)
    validations = [line["held_out"] | {"phase": line.get("phase", "")} for line in lines if "held_out" in line]
    kept = _about(folder / PURIFIER)
    step, total = max((int(line["step"]) for line in lines), default=0), kept.get("total_steps")
    best = kept.get("held_out") or {}
    # a training with minutes has no total of steps, and logs its progress
    finished = step == total or any(line.get("progress", 0) >= 1 for line in lines)
    figures = {"step": step, "total_steps": total, "finished": finished, "held_out": best}
    pictures = sorted((folder / "pictures").glob("step-*.png"))
    losses = [line for line in lines if "held_out" not in line]
    write_page(
        file,
        "training",
        folder,
        **figures,
        phases=list(dict.fromkeys(str(line.get("phase", "")) for line in losses)),
        kept=_pairs(best),
        losses=losses_plot(losses) if len(losses) > 1 else "",
        curves=curves_plot([(one["step"], _curves(one)) for one in validations]) if len(validations) > 1 else "",
        validations=_table(validations, best.get("step")),
        picture=data_uri(_opened(pictures[-1]), STRIP) if pictures else "",
        picture_step=int(pictures[-1].stem.removeprefix("step-")) if pictures else 0,
        recipe=flat(recipe),
        about=[
            (name, text) for name, text in flat(kept) if not name.startswith(("recipe.", "held_out.", "photographs"))
        ],
    )
    return figures


def _log(file: Path) -> list[dict[str, Any]]:
    """The lines of the log that are whole."""
    lines = []
    for text in file.read_text().splitlines() if file.is_file() else ():
        try:
            line = json.loads(text)
            lines += [line] if "step" in line else []
        except ValueError:  # it is being written, or a full disk cut it short
            continue
    return lines


def _about(checkpoint: Path) -> dict[str, Any]:
    """What the kept purifier says about itself. Empty: there is none yet."""
    if not checkpoint.is_file():
        return {}
    try:
        with safe_open(checkpoint, framework="numpy") as file:
            about: dict[str, Any] = parse_json((file.metadata() or {}).get("about", "{}"))
            return about
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(f"The checkpoint {checkpoint} is damaged: {error}.", hint="copy it anew") from None


def _opened(file: Path) -> Image.Image:
    try:
        with Image.open(file) as picture:
            picture.load()
            return picture
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error}.", hint="remove it") from None


def _pairs(held_out: Mapping[str, Any]) -> list[tuple[str, Share, Share]]:
    """The kept purifier's figures: on what, without and with it."""
    if not held_out:
        return []
    n = held_out["n"]

    def share(value: float) -> Share:
        return Share(round(value * n), n)

    rows = [("clean", share(held_out["clean_top1"]), share(held_out["purified_clean_top1"]))]
    attacked = held_out["attacked"].items()
    return rows + [(name, share(pair["attacked_top1"]), share(pair["purified_top1"])) for name, pair in attacked]


def _curves(held_out: Mapping[str, Any]) -> dict[str, float]:
    attacked = {name: pair["purified_top1"] for name, pair in held_out["attacked"].items()}
    return {"clean": held_out["purified_clean_top1"], **attacked}


def _table(validations: Sequence[Mapping[str, Any]], kept_step: int | None) -> Section | None:
    """All validations, one line each. Phases may have been measured with different attacks."""
    names = list(dict.fromkeys(name for one in validations for name in _curves(one)))
    rows = []
    for one in validations:
        curves = _curves(one)
        mark = " (kept)" if one["step"] == kept_step else ""
        rows.append((f"{one['step']:,}{mark}", one["phase"] or "-", *(percent(curves.get(name)) for name in names)))
    return Section("Validations", ("step", "phase", *names), rows) if rows else None
