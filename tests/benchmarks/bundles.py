"""`run` from end to end with several bundles, in turns: images per second, medians of the rounds.

python -m tests.benchmarks.bundles BUNDLE BUNDLE [...] --photos DIR [--rounds 3]
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from purifyctl.engine.bundle import load_bundle
from purifyctl.run import run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+")
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rates: dict[Path, list[float]] = {bundle: [] for bundle in arguments.bundles}
    for _ in range(arguments.rounds):
        for bundle, found in rates.items():
            with tempfile.TemporaryDirectory() as out:
                summary = run(arguments.photos, load_bundle(bundle), Path(out) / "run").summary
            found.append(summary["this_call"]["images_per_s"])
    for bundle, found in rates.items():
        median = statistics.median(found)
        spread = f"{min(found):.1f} to {max(found):.1f}"
        print(f"{bundle}: {median:.1f} images/s ({spread}), {1e3 / median:.1f} ms per image")


if __name__ == "__main__":
    main()
