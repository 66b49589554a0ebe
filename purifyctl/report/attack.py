"""An attack's folder as one HTML page: how often it succeeded, with which budget, and examples."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from purifyctl.config.folders import ATTACK, ATTACK_MANIFEST, ATTACK_ROWS
from purifyctl.errors import ConfigError
from purifyctl.images import Decoder
from purifyctl.images.sink import printable
from purifyctl.metrics import Share
from purifyctl.report.page import flat, write_page
from purifyctl.report.thumbnails import GAIN, SQUARE, attacked_thumbnails
from purifyctl.sources import ImageFile, list_images
from purifyctl.strict_json import read_json

EXAMPLES = 12
FAILURES = 10
Row = Mapping[str, Any]


def write_attack_report(folder: Path, file: Path) -> dict[str, Any]:
    """Write the page of an attack that is finished, under way or stopped. Returns its main figures.

    Raises
    ------
    ConfigError
        Its settings cannot be read, or the file cannot be written.
    """
    try:
        settings = read_json(folder / ATTACK)
        rows = _rows(folder / ATTACK_ROWS)
        manifest = read_json(made) if (made := folder / ATTACK_MANIFEST).is_file() else {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder} cannot be read: {error}.", hint="name a whole folder") from None
    statuses = Counter(row["status"] for row in rows)
    right = [row for row in rows if row["label"] is not None and row["clean_prediction"] == row["label"]]
    flipped = [row for row in right if row["attacked_prediction"] != row["label"]]
    success = Share(len(flipped), len(right))
    figures = {
        "rows": len(rows),
        "inputs": manifest.get("inputs"),
        "finished": bool(manifest.get("finished")),
        "statuses": dict(statuses.most_common()),
        "flipped": success.hits,
        "correct_when_clean": success.n,
        "attack_success_rate": success.value,
    }
    targeted = [row for row in rows if row["target"] is not None and row["clean_prediction"] != row["target"]]
    unmoved = [row for row in right if row["attacked_prediction"] == row["label"]]
    half = EXAMPLES // 2  # of either outcome, as far as there are enough
    shown = flipped[: max(half, EXAMPLES - len(unmoved))] + unmoved[: max(half, EXAMPLES - len(flipped))]
    write_page(
        file,
        "attack",
        folder,
        **figures,
        settings=settings,
        success=success,
        target=Share(sum(bool(row["success"]) for row in targeted), len(targeted)),
        moved=max((row["max_delta_255"] or 0 for row in rows), default=0),
        examples=_examples(folder, settings, shown),
        gain=GAIN,
        failures=[row for row in rows if row["status"] != "ok"][:FAILURES],
        failed=len(rows) - statuses["ok"],
        facts=flat(settings),
    )
    return figures


def _rows(file: Path) -> list[Row]:
    """The rows that are there. The last line may be half written."""
    rows = []
    for line in file.read_text().splitlines() if file.is_file() else ():
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def _examples(folder: Path, settings: Mapping[str, Any], rows: Sequence[Row]) -> list[dict[str, Any]]:
    sources = _sources(settings)
    size = settings["image_size"]
    decoder = Decoder(size=SQUARE if size == "original" else int(size), batch_size=1, threads=2)
    return [
        {
            "path": row["path"],
            "clean": row["clean_label"],
            "attacked": row["attacked_label"],
            "flipped": row["attacked_prediction"] != row["label"],
            "pictures": attacked_thumbnails(sources.get(row["path"]), folder / (row["output"] or ""), decoder),
        }
        for row in rows
    ]


def _sources(settings: Mapping[str, Any]) -> dict[str, ImageFile]:
    """The images that were attacked, by path, if they are still there."""
    try:
        return {printable(image.path): image for image in list_images(Path(settings["source"]))}
    except ConfigError:
        return {}
