"""What a reader sees of a report: its pictures, and nothing that a file's name put there."""

import base64
import io
import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from purifyctl.engine.bundle import Bundle
from purifyctl.images import Decoder, encode
from purifyctl.images.synthetic import natural_images
from purifyctl.report.run import write_report
from purifyctl.report.thumbnails import thumbnails
from purifyctl.run import RunOptions, plan, run
from purifyctl.sources import read_file
from tests import report_page, tiny
from tests.report_page import HOSTILE, report_of


@pytest.fixture(scope="module")
def labelled_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Read only."""
    return report_page.build(tmp_path_factory.mktemp("labelled"))


def test_the_pictures_of_a_report_show_only_what_the_purifier_changed(labelled_bundle: Bundle, tmp_path: Path) -> None:
    """On photographs of 4:3, one of them lying on its side, with a run whose images are put back unpurified."""
    (tmp_path / "photos").mkdir()
    sideways = Image.Exif()
    sideways[274] = 6
    for name, options in (("1.jpg", {}), ("2.jpg", {"exif": sideways})):
        photo = Image.fromarray(natural_images(1, 240)[0]).resize((320, 240))
        (tmp_path / "photos" / name).write_bytes(tiny.encoded(photo, "JPEG", quality=95, **options))
    out = tmp_path / "out"
    run(tmp_path / "photos", labelled_bundle, out)
    decoder = Decoder(size=tiny.SIZE, batch_size=1, threads=1)
    for planned in plan.Plan(out / "plan.parquet").part(0).inputs:
        seen = decoder.decode([read_file(planned.image)]).images[0]
        (out / planned.output).write_bytes(encode(seen, "png"))
        pictures = thumbnails(planned, out, decoder, unwritten="")
        before, after, change = (
            np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
            for uri in (pictures.before, pictures.after, pictures.change)
        )
        assert np.array_equal(before, after)
        assert (change == 128).all()


def test_names_cannot_become_part_of_the_page(labelled_bundle: Bundle, tmp_path: Path) -> None:
    source = tmp_path / "<b onclick=alert(0)>"
    names = [f"{name}/{i}.jpg" for i, name in enumerate(HOSTILE)]
    for i, name in enumerate(names):
        file = source / name
        file.parent.mkdir(parents=True)
        file.write_bytes(tiny.encoded(tiny.photograph(seed=i), "JPEG") if i % 2 else b"")
    out = tmp_path / "<script>run"
    run(source, labelled_bundle, out, RunOptions(compare=True))
    figures, page = report_of(out)
    assert figures["statuses"] == {"ok": 3, "empty": 3}
    for name in names:
        shown = name.replace("\u202e", "\\u202e").replace("\n", "\\u000a")
        assert shown in page.text
    assert "\u202e" not in page.text
    assert "<b onclick=alert(0)>" in page.text


@pytest.fixture(scope="module")
def seen_page(labelled_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a run with long and hostile names, several kinds of failures, and comparisons."""
    folder = tmp_path_factory.mktemp("seen")
    source = folder / "source"
    for i in range(40):
        file = source / ("cats" if i % 2 else HOSTILE[i % len(HOSTILE)]) / f"{'long' * (i % 4) * 12}{i}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(tiny.encoded(tiny.photograph(seed=i), "JPEG"))
    for name, (data, _) in tiny.hostile_files().items():
        (source / name).write_bytes(data)
    run(source, labelled_bundle, folder / "out", RunOptions(compare=True))
    write_report(folder / "out")
    page = folder / "out" / "report.html"
    page.write_text(page.read_text().replace("<details>", "<details open>", 2))  # as after two clicks
    return page


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_page_whole_and_asks_for_nothing_else(seen_page: Path, width: int, scheme: str) -> None:
    if not find_spec("PySide6") or not find_spec("PySide6.QtWebEngineCore"):
        pytest.skip("there is no browser: pip install pyside6-webengine")
    words = [sys.executable, "-m", "tests.browser", str(seen_page), str(width), scheme]
    done = subprocess.run(
        words, capture_output=True, text=True, cwd=Path(__file__).parents[1], env=os.environ, timeout=120, check=False
    )
    if "cannot open shared object file" in done.stderr:
        pytest.skip(f"the browser lacks a library of the system's: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["requests"] == [seen_page.as_uri()]
    assert found["messages"] == []
    seen = found["seen"]
    assert "inputs" in seen["headline"]
    assert "failed" in seen["headline"]
    changed, more = divmod(len(seen["images"]) - 36, 3)  # before the twelve largest changes of pixels
    assert 0 < changed <= 12
    assert more == 0
    assert min(seen["images"]) > 0
    assert seen["width"] == width
    assert seen["scroll_width"] <= width
    assert seen["sticking_out"] == []
    background = Image.new("RGB", (1, 1), seen["background"]).getpixel((0, 0))
    assert (sum(background) < 200) == (scheme == "dark")
