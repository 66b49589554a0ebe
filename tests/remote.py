"""What tests of sources behind URLs share."""

import io
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from purifyctl.sources import ImageFile, Source

ROOT = Path(__file__).parents[1]
TIMES = ("read_ms", "decode_ms", "purify_ms", "classify_ms", "encode_ms", "write_ms", "finished")
ODD = ("a b#1%.jpg", "café.jpg", "line\nbreak.jpg", "what?&amp;.jpg", "100%25.jpg", "semi;colon+plus.jpg", "'\".jpg")


def rows_of(out: Path) -> list[dict[str, Any]]:
    rows = pq.read_table(out / "rows").to_pylist()
    return [{k: v for k, v in row.items() if not k.endswith("_ms") and k not in TIMES} for row in rows]


def images_of(out: Path) -> dict[str, bytes]:
    return {str(f.relative_to(out)): f.read_bytes() for f in sorted((out / "images").rglob("*")) if f.is_file()}


def statuses_of(out: Path) -> dict[str, str]:
    return {row["path"]: row["status"] for row in rows_of(out)}


def archive(file: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(file, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def at(url: str) -> ImageFile:
    return ImageFile(url, PurePosixPath("image"))


def read_all(source: Source, **options: Any) -> dict[str, bytes]:
    images = [found.as_image() for found in source.inputs(**options)]
    return {str(image.path): source.read(image).tobytes() for image in images}
