"""A folder that grows: the second call does what is new, and rows and images are those of one run over it all.

    python -m tests.benchmarks.grown [--images 1000] [--more 10] [--size original]

Synthetic photographs and a tiny engine. It fails if a row or an image is lost, doubled or different.
"""

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

from purifyctl.config.values import parse_size
from purifyctl.run import RunOptions, run
from tests import tiny
from tests.kills import files_of, rows_of


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--more", type=int, default=10, help="that are added after the first call")
    parser.add_argument("--size", type=parse_size)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle, options = tiny.bundle(folder), RunOptions(size=asked.size)
        complete = tiny.photographs(folder / "complete", asked.images + asked.more)
        files = sorted(complete.iterdir())
        new = set(files[:: len(files) // asked.more][: asked.more])  # everywhere among the others
        source = folder / "source"
        source.mkdir()
        for file in files:
            if file not in new:
                os.link(file, source / file.name)
        first = run(source, bundle, folder / "out", options).summary["this_call"]
        for file in new:
            os.link(file, source / file.name)
        second = run(source, bundle, folder / "out", options).summary["this_call"]
        run(source, bundle, folder / "at-once", options)
        rows, images = _by_path(folder / "out"), files_of(folder / "out")
        assert (first["rows"], second["rows"], second["added"]) == (asked.images, asked.more, asked.more)
        assert rows == _by_path(folder / "at-once")
        assert images == files_of(folder / "at-once")
    print(
        f"{asked.images} images: {first['rows']} rows in {first['seconds']:.1f} s; {asked.more} more: {second['rows']} "
        f"rows in {second['seconds']:.1f} s; {len(rows)} rows and {len(images)} images equal those of one run"
    )


def _by_path(out: Path) -> dict[str, dict[str, Any]]:
    """Rows by path, without their batch: it follows from when an image came."""
    rows = rows_of(out)
    found = {row["path"]: row | {"batch": 0} for row in rows}
    assert len(found) == len(rows)  # each once
    return found


if __name__ == "__main__":
    main()
