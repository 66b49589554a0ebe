"""Writing image files: processor time and size of each format and compression.

    python -m tests.benchmarks.encoding --photos DIR [--limit 100]

Each photograph is the square that an engine sees. The formats take turns; each counts with its fastest of three times.
It prints a table, as Markdown.
"""

import argparse
import time
from pathlib import Path
from typing import get_args

import numpy as np

from purifyctl.config.formats import FORMATS, Compression
from purifyctl.images import encode
from purifyctl.photographs import read_pixels
from purifyctl.sources import list_images

SIZE, TIMES = 256, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=100)
    arguments = parser.parse_args()
    inputs = list_images(arguments.photos)
    inputs = inputs[:: max(1, len(inputs) // arguments.limit)][: arguments.limit]
    images, _ = read_pixels(inputs, SIZE)
    ways = [(record.name, compression) for record in FORMATS for compression in get_args(Compression)]
    fastest = np.full((len(ways), len(images)), np.inf)
    sizes = np.zeros((len(ways), len(images)))
    for _ in range(TIMES):
        for k, image in enumerate(images):
            for way, (image_format, compression) in enumerate(ways):
                start = time.process_time()
                data = encode(image, image_format, compression)
                fastest[way, k] = min(fastest[way, k], time.process_time() - start)
                sizes[way, k] = len(data)
    print(
        f"{len(images)} photographs, {SIZE}x{SIZE}\n\n| format | compression | ms of a core | kB |\n|---|---|---|---|"
    )
    for (image_format, compression), ms, size in zip(ways, fastest.mean(1) * 1e3, sizes.mean(1) / 1e3, strict=True):
        print(f"| {image_format} | {compression} | {ms:.2f} | {size:.1f} |")


if __name__ == "__main__":
    main()
