"""A run's folder as one HTML page that needs nothing else: no script, no other file, no network."""

import itertools
import json
import time
import unicodedata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

import purifyctl
from purifyctl.config.values import MAX_PIXELS
from purifyctl.console import duration
from purifyctl.errors import ConfigError
from purifyctl.files import write_atomically
from purifyctl.images import Decoder
from purifyctl.metrics import PERCENTILES, Share, percent
from purifyctl.report.counters import Stretch
from purifyctl.report.plots import change_plot, confidence_plot, latency_plot, throughput_plot
from purifyctl.report.tally import FAILURES, Tally, tally
from purifyctl.report.thumbnails import GAIN, thumbnails
from purifyctl.run.plan import PLAN, Plan
from purifyctl.run.run_folder import REPORT, SUMMARIES, SUMMARY, read_settings

POINTS = 200  # in the plot over time, about
WORST_CLASSES = 12
WIDE, NARROW = 8.6, 4.2  # inches; plots on a desk and on a phone
_AMORTISED = ("decode", "gate", "purify", "classify")


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
    page = _environment().get_template("run.html.j2").render(_page(folder, settings, plan, found, figures))
    try:
        write_atomically(file, page.encode())
    except OSError as error:
        raise ConfigError(f"{file} cannot be written: {error.strerror}.", hint="check --out") from None
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
        "name": folder.absolute().name or str(folder),
        "folder": str(folder.absolute()),
        "settings": _flat(settings),
        "source": settings.get("source", "?"),
        "engine": settings.get("engine", {}),
        "failed": found.rows - found.statuses["ok"],
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
        "amortised": [name for name in _AMORTISED if name in stages],
        "latency": latency_plot(stages) if stages else "",
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
        "gallery": _gallery(folder, settings, plan, found),
        "gain": GAIN,
        "failures": [
            (status, n, found.failures[status]) for status, n in found.statuses.most_common() if status != "ok"
        ],
        "failures_shown": FAILURES,
        "bundles": found.bundles.most_common(),
        "calls": [(name, summary.get("this_call", {})) for name, summary in summaries.items()],
        "versions": sorted({str(s["purifyctl"]) for s in summaries.values() if s.get("purifyctl")}),
        "machines": sorted({_machine(s["machine"]) for s in summaries.values() if isinstance(s.get("machine"), dict)}),
        "made": time.time(),
        "purifyctl": purifyctl.__version__,
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


def _gallery(folder: Path, settings: Mapping[str, Any], plan: Plan, found: Tally) -> list[dict[str, Any]]:
    """The images that the purifier changed most, with pictures."""
    options, engine = settings.get("options", {}), settings.get("engine", {})
    unwritten = "" if options.get("image_format") else "The run wrote no images."
    if options.get("images_to"):
        unwritten = "The purified image lies in an object store, and a report asks no server."
    decoder = Decoder(
        size=int(engine.get("image_size", 256)),
        batch_size=1,
        threads=2,
        max_pixels=int(options.get("max_pixels", MAX_PIXELS)),
    )
    shown = []
    for change, part, position, row in sorted(found.most_changed, key=lambda entry: entry[:3], reverse=True):
        pictures = thumbnails(plan.part(-part).inputs[-position], folder, decoder, unwritten=unwritten)
        says = {
            kind: (row[f"{kind}top_label"][0], row[f"{kind}top_probability"][0])
            for kind in ("", "unpurified_")
            if row[f"{kind}top_label"]
        }
        shown.append(
            {
                "path": row["path"],
                "change": change,
                "true": row["true_label"],
                "right": None if row["true_index"] is None else row["true_index"] in row["top_index"][:1],
                "pictures": pictures,
                "purified": says.get(""),
                "unpurified": says.get("unpurified_"),
            }
        )
    return shown


def _summaries(folder: Path) -> dict[str, dict[str, Any]]:
    """The summaries of calls that have ended, by file name."""
    found = {}
    for file in (folder / SUMMARY, *sorted((folder / SUMMARIES).glob("*.json"))):
        try:
            summary = json.loads(file.read_text())
        except (OSError, ValueError):  # it is missing, or some other file
            continue
        if isinstance(summary, dict):
            found[str(file.relative_to(folder))] = summary
    return found


def _machine(facts: Mapping[str, Any]) -> str:
    return f"{facts.get('processor')}, {facts.get('cores')} cores, Python {facts.get('python')}"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as lines of name and value."""
    lines = []
    for name, value in settings.items():
        if isinstance(value, dict):
            lines += _flat(value, f"{prefix}{name}.")
        else:
            lines.append((prefix + name, value if isinstance(value, str) else json.dumps(value)))
    return lines


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("purifyctl", "report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "visible": _visible,
        "percent": lambda value: percent(value).replace(" ", "\u00a0"),
        "interval": _interval,
        "moment": _moment,
        "duration": duration,
        "short": _short,
        "count": lambda n: f"{n:,}",
    }
    return environment


def _visible(text: str) -> str:
    """The text with invisible characters, and those that reverse the text around them, written out: `\\u202e`."""
    return "".join(
        f"\\u{ord(c):04x}" if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") else c for c in text
    )


def _interval(share: Share) -> str:
    """The 95 % interval: `78.9 to 90.2`."""
    return "-" if share.interval is None else "{:.1f} to {:.1f}".format(*(100 * end for end in share.interval))


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _short(value: float) -> str:
    """Two or three significant digits: `0.031`, `4.21`, `12.4`, `1,240`."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 1 else f"{value:.2g}"
