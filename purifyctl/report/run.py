"""A run's folder as one HTML page that needs nothing else: no script, no other file, no network."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from purifyctl.config.folders import REPORT
from purifyctl.config.picture_options import PictureOptions
from purifyctl.config.run import PLAN
from purifyctl.errors import ConfigError
from purifyctl.images import Decoder
from purifyctl.metrics import PERCENTILES, Share
from purifyctl.report.counters import Stretch
from purifyctl.report.page import flat, write_page
from purifyctl.report.plots import WIDE, change_plot, confidence_plot, latency_plot, throughput_plot
from purifyctl.report.tally import FAILURES, Tally, tally
from purifyctl.report.thumbnails import GAIN, thumbnails
from purifyctl.run.plan import Plan
from purifyctl.run.rows import NOT_FAILED
from purifyctl.run.run_folder import SUMMARIES, SUMMARY, read_settings
from purifyctl.run.summary import BATCH_STAGES
from purifyctl.strict_json import read_json

POINTS = 200  # in the plot over time, about
WORST_CLASSES = 12
NARROW = 4.2  # inches; plots on a phone


def write_report(folder: Path, file: Path | None = None) -> dict[str, Any]:
    """Write the report of a run that is finished, under way or stopped. Returns the main figures and the file's path.

    Parameters
    ----------
    file
        Default: report.html in the run's folder.

    Raises
    ------
    ConfigError
        `folder` holds no run, its plan is not there yet, or the file cannot be written.
    """
    settings = read_settings(folder)
    if not (folder / PLAN).is_file():
        raise ConfigError(f"{folder} holds a run without a plan.", hint="wait until run has listed its inputs")
    plan = Plan(folder / PLAN)
    found = tally(folder, plan.parts)
    file = file or folder / REPORT
    figures = _figures(plan, found)
    write_page(file, "run", folder, **_page(folder, settings, plan, found, figures))
    return {"report": str(file), **figures}


def _figures(plan: Plan, found: Tally) -> dict[str, Any]:
    """What `--json` prints, and the first lines of the page."""
    done = sum(rows == plan.size(part) for part, rows in found.rows_of_part.items())
    stretches = found.timeline.stretches(POINTS)
    top1 = {name: outcome.top1 for name, outcome in (("purified", found.purified), ("unpurified", found.unpurified))}
    return {
        "inputs": plan.inputs,
        "rows": found.rows,
        "statuses": dict(found.statuses.most_common()),
        "finished": done == plan.parts,
        "shards": plan.parts,
        "finished_shards": done,
        "inputs_per_s": _rate(stretches),
        "stretches": len(stretches),
        **({"flagged": found.flagged[True], "handled": dict(found.handled.most_common())} if found.flagged else {}),
        "top1": {name: {"n": share.n, "value": share.value} for name, share in top1.items() if share.n},
        "mean_change": {f"p{p}": round(v, 3) for p, v in found.change.percentiles().items()} if found.change.n else {},
    }


def _rate(stretches: Sequence[Stretch]) -> float | None:
    """Inputs/s while the run is at work: pauses do not count."""
    seconds = sum(float(s.edges[-1] - s.edges[0]) for s in stretches if len(s.rates))
    inputs = sum(float((s.rates * (s.edges[1:] - s.edges[:-1])).sum()) for s in stretches if len(s.rates))
    return round(inputs / seconds, 2) if seconds else None


def _page(
    folder: Path, settings: Mapping[str, Any], plan: Plan, found: Tally, figures: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything that the template shows. The template escapes all of it except the plots."""
    stretches = found.timeline.stretches(POINTS)
    summaries = _summaries(folder)
    stages = {name: histogram for name, histogram in found.stages.items() if histogram.n}
    labelled, compared = found.purified.labelled > 0, found.unpurified.classified > 0
    confident = found.purified.classified > 0
    outcome = "gated" if found.flagged else "purified"  # the images that the classifier saw
    return {
        **figures,
        "settings": flat(settings),
        "truth": plan.truth,
        "source": settings.get("source", "?"),
        "engine": settings.get("engine", {}),
        "whole": settings.get("options", {}).get("size") == "original",
        "failed": sum(n for status, n in found.statuses.items() if status not in NOT_FAILED),
        "ok": found.statuses["ok"],
        "statuses": found.statuses.most_common(),
        "gate": Share(found.flagged[True], found.flagged.total()) if found.flagged else None,
        "asked_rate": settings.get("options", {}).get("gate"),
        "handled": found.handled.most_common(),
        "stretches": stretches,
        "throughput": [throughput_plot(stretches, width) for width in (WIDE, NARROW)]
        if figures["inputs_per_s"]
        else [],
        "pauses": [after.begin - before.end for before, after in itertools.pairwise(stretches)],
        "pause_s": found.timeline.pause_s(),
        "at_work": sum(s.end - s.begin for s in stretches),
        "stages": stages,
        "amortised": [name for name in BATCH_STAGES if name in stages],
        "latency": latency_plot(stages, BATCH_STAGES) if stages else "",
        "percentiles": PERCENTILES,
        "purified": found.purified,
        "unpurified": found.unpurified if compared else None,
        "differing": Share(found.differing, found.compared),
        "outcome": outcome,
        "confidence": confidence_plot(found.purified, found.unpurified if compared else None, outcome)
        if confident
        else "",
        "worst": _worst(found, compared) if labelled else [],
        "classes": len(found.of_class),
        "classes_with_errors": len({true for true, _ in found.mistakes}),
        "change": found.change,
        "changes": change_plot(found.change) if found.change.n else "",
        "changed": _gallery(folder, settings, plan, found.most_diverged),
        "gallery": _gallery(folder, settings, plan, found.most_changed),
        "gain": GAIN,
        "failures": [
            (status, n, found.failures[status])
            for status, n in found.statuses.most_common()
            if status not in NOT_FAILED
        ],
        "failures_shown": FAILURES,
        "bundles": found.bundles.most_common(),
        "calls": [(name, summary.get("this_call", {})) for name, summary in summaries.items()],
        "versions": sorted({str(s["purifyctl"]) for s in summaries.values() if s.get("purifyctl")}),
        "machines": sorted({_machine(s["machine"]) for s in summaries.values() if isinstance(s.get("machine"), dict)}),
    }


def _worst(found: Tally, compared: bool) -> list[dict[str, Any]]:
    return [
        {
            "name": found.names[true],
            "right": right,
            "unpurified": Share(found.unpurified.right_by_class[true], right.n) if compared else None,
            "taken_for": [(found.names[predicted], n) for predicted, n in taken_for],
        }
        for true, right, taken_for in found.worst_classes(WORST_CLASSES)
    ]


def _gallery(
    folder: Path, settings: Mapping[str, Any], plan: Plan, most: Sequence[tuple[float, int, int, dict[str, Any]]]
) -> list[dict[str, Any]]:
    """Images with pictures, and with what the classifier says of them: those with the most of something first."""
    options, engine = settings.get("options", {}), settings.get("engine", {})
    unwritten = "" if options.get("image_format") else "The run wrote no images."
    if options.get("images_to"):
        unwritten = "The purified image lies in an object store, and a report asks no server."
    decoder = Decoder(
        size=int(engine.get("image_size", 256)),
        batch_size=1,
        threads=2,
        options=PictureOptions(**{f.name: options[f.name] for f in fields(PictureOptions) if f.name in options}),
    )
    shown = []
    for _, part, position, row in sorted(most, key=lambda entry: entry[:3], reverse=True):
        pictures = thumbnails(plan.part(-part).inputs[-position], folder, decoder, unwritten=unwritten)
        says, right = {}, {}
        for kind in ("", "unpurified_"):
            says[kind] = (
                (row[f"{kind}top_label"][0], row[f"{kind}top_probability"][0]) if row[f"{kind}top_label"] else None
            )
            known = row["true_index"] is not None and row[f"{kind}top_index"]
            right[kind] = row["true_index"] == row[f"{kind}top_index"][0] if known else None
        shown.append(
            {
                "path": row["path"],
                "change": row["mean_change"],
                "true": row["true_label"],
                "right": right[""],
                "right_before": right["unpurified_"],
                "pictures": pictures,
                "purified": says[""],
                "unpurified": says["unpurified_"],
            }
        )
    return shown


def _summaries(folder: Path) -> dict[str, dict[str, Any]]:
    """The summaries of calls that have ended, by file name."""
    found = {}
    for file in (folder / SUMMARY, *sorted((folder / SUMMARIES).glob("*.json"))):
        try:
            summary = read_json(file)
        except (OSError, ValueError):  # it is missing, or some other file
            continue
        if isinstance(summary, dict):
            found[str(file.relative_to(folder))] = summary
    return found


def _machine(facts: Mapping[str, Any]) -> str:
    return f"{facts.get('processor')}, {facts.get('cores')} cores, Python {facts.get('python')}"
