"""Draws docs/images/strip.jpg, the README's picture, from the folder of a demo.

purifyctl demo --out demo && python -m docs.images.strip demo

The demo's own strip shows photographs of ImageNet, whose rights belong to their photographers. This strip shows other
photographs of the demo. They come from scikit-image, and their licences let anybody pass them on: coffee (Rachel
Michetti) and camera (Lav Varshney), CC0; rocket (SpaceX), public domain. One of the three is not restored.
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from purifyctl.parquet import read_columns
from purifyctl.strip import Line, Picture, draw_strip

PHOTOGRAPHS = ("coffee", "camera", "rocket")
WIDTH = 820  # pixels


def draw(demo: Path) -> Image.Image:
    """The strip of PGD-10 at 4/255. The class that the classifier gives the clean photograph counts as right."""
    names = ("path", "output", "top_label", "top_probability", "unpurified_top_label", "unpurified_top_probability")
    clean, attacked = (read_columns(demo / "runs" / name / "rows", names) for name in ("clean", "pgd-10"))
    lines = []
    for name in PHOTOGRAPHS:
        path = f"unlabelled/{name}.png"
        i = clean["path"].index(path)
        truth = clean["unpurified_top_label"][i][0]
        images = (demo / "clean" / path, demo / "pgd-10" / path, demo / "runs" / "pgd-10" / attacked["output"][i])
        columns = ((clean, "unpurified_top"), (attacked, "unpurified_top"), (attacked, "top"))
        pictures = []
        for file, (rows, which) in zip(images, columns, strict=True):
            label, sure = rows[f"{which}_label"][i][0], rows[f"{which}_probability"][i][0]
            pictures.append(Picture(np.asarray(Image.open(file).convert("RGB")), label, sure, label == truth))
        lines.append(Line(*pictures))
    title = "PGD-10 at 4/255 on EfficientNet-Lite0; the attacker does not know the purifier"
    strip = draw_strip(lines, title)
    return strip.resize((WIDTH, round(strip.height * WIDTH / strip.width)), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    draw(Path(sys.argv[1])).save(Path(__file__).with_suffix(".jpg"), quality=82, optimize=True)
