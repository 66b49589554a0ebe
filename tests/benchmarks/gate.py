"""What a gate saves: accuracy and throughput of `run` by the share of attacked files, gated and not, in turns.

    python -m tests.benchmarks.gate --photos DIR --attacked DIR --engine BUNDLE [--share 0.01] [--rounds 2] \\
        [--plot FILE.png]

`--attacked` is what `purifyctl attack DIR --out ATTACKED --truth folders` wrote. Unflagged files are left alone.
Both folders hold the same photographs in folders named after their classes; the attacked ones are chosen at random.
Both forms classify each image once (`--no-compare`). It prints a table as Markdown: medians of the rounds, and "times"
is the median of each round's ratio.
"""

import argparse
import glob
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from purifyctl.engine.bundle import load_bundle
from purifyctl.run import RunOptions, run

SHARES = (0.0, 0.01, 0.1, 0.5, 1.0)
FORMS = {
    "ungated": RunOptions(compare=False),
    "gated": RunOptions(compare=False, gated=True, unflagged="leave"),
    "none": RunOptions(compare=True),
}


class Row(NamedTuple):
    """What was measured at one share of attacked files."""

    share: float
    speed: tuple[float, float]  # images/s, ungated and gated
    times: float  # gated by ungated
    top1: tuple[float, float, float]  # no defence, ungated, gated


def mixture(photos: Path, attacked: Path, share: float, folder: Path) -> int:
    """Links to the photographs, `share` of them to their attacked images instead. Returns how many of these."""
    files = sorted(f for f in photos.rglob("*") if f.is_file())
    chosen = set(np.random.default_rng(0).permutation(len(files))[: round(share * len(files))].tolist())
    for number, file in enumerate(files):
        inside = file.relative_to(photos)
        made = (
            next((attacked / "images" / inside.parent).glob(f"{glob.escape(file.stem)}.*"))
            if number in chosen
            else file
        )
        link = folder / inside.parent / f"{file.stem}{made.suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(made.absolute())
    return len(chosen)


def measure(bundle: Path, source: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """Images per second and accuracy, by form, in turns; the accuracy of no defence from a run that compares."""
    engine = load_bundle(bundle)
    speed: dict[str, list[float]] = {"ungated": [], "gated": []}
    summaries: dict[str, dict[str, Any]] = {}
    for form in ("none", *(rounds * list(speed))):  # the first one warms the page cache, too
        with tempfile.TemporaryDirectory() as out:
            summaries[form] = run(source, engine, Path(out) / "run", FORMS[form]).summary
        if form in speed:
            speed[form].append(summaries[form]["this_call"]["images_per_s"])
    return {form: {"speed": values, **summaries[form]} for form, values in speed.items()} | {"none": summaries["none"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--attacked", type=Path, required=True)
    parser.add_argument("--engine", type=Path, required=True)
    parser.add_argument("--share", type=float, action="append", help=f"of attacked files; default: {SHARES}")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    print("| attacked | images/s, ungated | gated | times | flagged | top-1, no defence | ungated | gated |")
    print("|---|---|---|---|---|---|---|---|")
    found = []
    for share in arguments.share or SHARES:
        with tempfile.TemporaryDirectory() as folder:
            n = mixture(arguments.photos, arguments.attacked, share, Path(folder))
            made = measure(arguments.engine, Path(folder), arguments.rounds)
        plain, gated, accuracy = made["ungated"], made["gated"], made["none"]["accuracy"]
        row = Row(
            share,
            (statistics.median(plain["speed"]), statistics.median(gated["speed"])),
            statistics.median(one / other for one, other in zip(gated["speed"], plain["speed"], strict=True)),
            (accuracy["unpurified_top1"], plain["accuracy"]["top1"], gated["accuracy"]["top1"]),
        )
        found.append(row)
        print(
            f"| {share:.0%} ({n}) | {row.speed[0]:.1f} | {row.speed[1]:.1f} | {row.times:.2f} | "
            f"{gated['gate']['flagged']} | {' | '.join(f'{top1:.1%}' for top1 in row.top1)} |",
            flush=True,
        )
    if arguments.plot:
        _plot(found, arguments.plot)


def _plot(found: Sequence[Row], file: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    speed, accuracy = figure.subplots(1, 2)
    ticks = [f"{row.share:.0%}" for row in found]
    for number, (form, colour) in enumerate((("ungated", "C0"), ("gated", "C1"))):
        speed.plot(ticks, [row.speed[number] for row in found], "o-", color=colour, label=form)
    for number, (form, colour) in enumerate((("no defence", "0.6"), ("ungated", "C0"), ("gated", "C1"))):
        accuracy.plot(ticks, [100 * row.top1[number] for row in found], "o-", color=colour, label=form)
    for axes, text in ((speed, "images/s"), (accuracy, "top-1, %")):
        axes.set(xlabel="attacked files", ylabel=text, ylim=(0, None))
        axes.legend()
    figure.savefig(file, dpi=110)


if __name__ == "__main__":
    main()
