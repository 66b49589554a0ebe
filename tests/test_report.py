import base64
import io
import json
import os
import subprocess
import sys
import tarfile
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from purifyctl.classifiers import Classifier
from purifyctl.config import EngineConfig
from purifyctl.engine.build import build_engine
from purifyctl.engine.bundle import Bundle
from purifyctl.errors import ConfigError
from purifyctl.images import Decoder, encode
from purifyctl.images.synthetic import natural_images
from purifyctl.labels import Labels
from purifyctl.metrics import PERCENTILES
from purifyctl.parquet import write_part
from purifyctl.report.run import write_report
from purifyctl.report.tally import EVENTS, Histogram, Timeline
from purifyctl.report.thumbnails import thumbnails
from purifyctl.run import RunOptions, plan, run
from purifyctl.run.rows import KeptRow
from purifyctl.sources import read_file
from tests import tiny

HOSTILE = (
    "<script>alert(1)<script>",
    "\"><img src=x onerror='alert(2)'>",
    "{{ 7 * 7 }}{% raw %}",
    "turned \u202e about",
    "two\nlines",
    "&lt;b&gt; &amp;",
)


def hostile() -> Classifier:
    """Ten classes, most of which have names that a page must not take for its own."""
    names = ("cats", "dogs", *HOSTILE, "eight", "nine")
    return Classifier(tiny.classifier(), name="animals", labels=Labels(names), mean=(0.5,) * 3, std=(0.5,) * 3)


@pytest.fixture(scope="module")
def labelled_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Read only."""
    folder = tmp_path_factory.mktemp("labelled")
    config = EngineConfig(image_size=tiny.SIZE, batch_size=4, classifier="tests.test_report:hostile")
    return build_engine(config, tiny.checkpoint(folder / "run"), folder / "bundle")


class Page(HTMLParser):
    """What a browser would make of a page: its elements with their attributes, and its text."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self._text: list[str] = []
        self.feed(file.read_text())
        self.text = " ".join("".join(self._text).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._text.append(" " if tag in ("td", "th") else "")

    def handle_data(self, data: str) -> None:
        self._text.append(data)

    def pictures(self) -> list[str]:
        return [attributes["alt"] or "" for tag, attributes in self.elements if tag == "img"]


def assert_harmless(page: Page) -> None:
    """There is nothing that runs, and nothing that would be fetched."""
    assert not {tag for tag, _ in page.elements} & {"script", "iframe", "object", "embed", "link", "form", "a", "base"}
    for tag, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")], tag
        for name in ("src", "href", "xlink:href", "srcset", "action", "background"):
            value = attributes.get(name) or ""
            assert value.startswith(("data:image/", "#")) or not value, (tag, value)
    policies = [attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]


def report_of(folder: Path) -> tuple[dict, Page]:
    figures = write_report(folder)
    page = Page(folder / "report.html")
    assert_harmless(page)
    return figures, page


def test_a_report_says_what_the_summary_says(photos: Path, labelled_bundle: Bundle, tmp_path: Path) -> None:
    for name, status in (("zero.jpg", "empty"), ("notes.txt", "not_an_image")):
        data, expected = tiny.hostile_files()[name]
        assert expected == status
        (photos / name).write_bytes(data)
    out = tmp_path / "out"
    summary = run(photos, labelled_bundle, out, RunOptions(compare=True)).summary
    figures, page = report_of(out)
    assert figures["statuses"] == summary["statuses"] == {"ok": 10, "empty": 1, "not_an_image": 1}
    assert figures["finished"]
    assert (figures["inputs"], figures["rows"]) == (12, 12)
    accuracy = summary["accuracy"]
    assert figures["top1"] == {
        "purified": {"n": 10, "value": pytest.approx(accuracy["top1"])},
        "unpurified": {"n": 10, "value": pytest.approx(accuracy["unpurified_top1"])},
    }
    changes = [row["mean_change"] for row in pq.read_table(out / "rows").to_pylist() if row["status"] == "ok"]
    for value in figures["mean_change"].values():
        assert min(abs(value / change - 1) for change in changes) < 0.011
    assert "of 12 inputs 10 are ok, and 2 failed" in page.text
    assert f"{100 * accuracy['top1_confidence']:.1f} %" in page.text
    assert "notes.txt The file has no readable image header" in page.text
    assert labelled_bundle.sha256 in page.text
    assert summary["machine"]["processor"] in page.text
    assert page.pictures() == ["before", "after", "change ×8"] * 10


def test_a_gated_runs_report_says_what_the_gate_did(photos: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    handled = run(photos, tiny_bundle, tmp_path / "out", RunOptions(gated=True, unflagged="leave")).summary["handled"]
    figures, page = report_of(tmp_path / "out")
    assert figures["handled"] == handled
    assert figures["flagged"] == handled["purified"] < 10
    shares = {name: f"{n} {10 * n}.0 %" for name, n in handled.items()}
    assert f"flagged, purified {shares['purified']}" in page.text
    assert f"not flagged, left where it is {shares['left']}" in page.text
    assert "The gate looked at 10 images, at a false-positive rate of 1.0 %" in page.text
    assert "Of the purified images" not in page.text
    assert "Gated: flagged images are classified purified" in page.text
    assert len(page.pictures()) == 3 * handled["purified"]


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
    for item in plan.Plan(out / "plan.parquet").part(0).inputs:
        seen = decoder.decode([read_file(item.image)]).images[0]
        (out / item.output).write_bytes(encode(seen, "png"))
        pictures = thumbnails(item, out, decoder, unwritten="")
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


def test_a_run_that_is_still_at_work_has_a_report(
    photos: Path, labelled_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "PART_SIZE", 4)
    out = tmp_path / "out"
    run(photos, labelled_bundle, out)
    (out / "summary.json").unlink()
    first, second, third = sorted((out / "rows").iterdir())
    rows = pq.read_table(second).to_pylist()
    kept = [KeptRow(**row, position=i) for i, row in enumerate(rows)][2:]
    write_part(kept, KeptRow, out / "rows" / "kept-00001.parquet")
    second.unlink()
    third.unlink()
    figures, page = report_of(out)
    assert not figures["finished"]
    assert (figures["rows"], figures["finished_shards"], figures["shards"]) == (6, 1, 3)
    assert "6 of 10 inputs (60.0 %) are done, 4 are to do; 1 of 3 shards are complete" in page.text
    assert "known once a call has ended" in page.text
    for row in kept:
        assert row.path in page.text
    assert page.pictures() == ["before", "after", "change ×8"] * 6  # found by their positions
    first.unlink()
    (out / "rows" / "kept-00001.parquet").unlink()
    assert "Nothing finished yet: 10 inputs in 3 shards" in report_of(out)[1].text


def test_rows_that_are_committed_while_they_are_read_are_counted_once(
    photos: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    run(photos, tiny_bundle, out)
    part = out / "rows" / "part-00000.parquet"
    away = part.rename(out / "away.parquet")
    really = pq.ParquetFile

    def opened(file: Path) -> pq.ParquetFile:
        if file.name.startswith("kept"):  # it was there a moment ago
            away.rename(part)
        return really(file)

    monkeypatch.setattr(pq, "ParquetFile", lambda file: really(file) if file.name == "plan.parquet" else opened(file))
    assert write_report(out)["rows"] == 10


def test_a_run_without_labels_images_or_classifier_says_so(photos: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    run(photos, tiny_bundle, tmp_path / "a", RunOptions(image_format=None))
    figures, page = report_of(tmp_path / "a")
    assert figures["top1"] == {}
    assert figures["mean_change"]["p50"] > 0
    assert "No input has a true class" in page.text
    assert "The run wrote no images." in page.text
    assert page.pictures() == ["before"] * 10
    run(photos, tiny_bundle, tmp_path / "b", RunOptions(classify=False))
    page = report_of(tmp_path / "b")[1]
    assert "Accuracy" not in page.text
    assert "classify" not in page.text.split("How it was made")[0]
    for image in photos.rglob("*.jpg"):
        image.unlink()
    assert "The input: It cannot be read: No such file or directory." in report_of(tmp_path / "b")[1].text


def test_calls_that_share_a_run_are_reported_together(
    photos: Path, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "PART_SIZE", 4)
    out = tmp_path / "out"
    run(photos, tiny_bundle, out, RunOptions(shard=(0, 2)))
    figures, page = report_of(out)
    assert (figures["rows"], figures["finished"]) == (6, False)
    run(photos, tiny_bundle, out, RunOptions(shard=(1, 2)))
    figures, page = report_of(out)
    assert (figures["rows"], figures["finished"]) == (10, True)
    assert "summaries/0-of-2.json" in page.text
    assert "summaries/1-of-2.json" in page.text


def test_images_in_tar_shards_are_shown(photos: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    source = tmp_path / "shards"
    source.mkdir()
    with tarfile.open(source / "one.tar", "w") as shard:
        shard.add(photos, ".")
    run(source, tiny_bundle, tmp_path / "out")
    assert report_of(tmp_path / "out")[1].pictures() == ["before", "after", "change ×8"] * 10


def test_a_folder_that_holds_no_run_or_a_damaged_one_is_refused(
    photos: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="holds no run"):
        write_report(photos)
    assert not (photos / "report.html").exists()
    out = tmp_path / "out"
    run(photos, tiny_bundle, out)
    with pytest.raises(ConfigError, match="cannot be written"):
        write_report(out, tmp_path / "nowhere" / "report.html")
    next((out / "rows").iterdir()).write_bytes(b"no Parquet")
    with pytest.raises(ConfigError, match="cannot be read"):
        write_report(out)
    (out / "plan.parquet").unlink()
    with pytest.raises(ConfigError, match="without a plan"):
        write_report(out)


def test_the_command_prints_json_and_writes_where_it_is_told(photos: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    out, file = tmp_path / "out", tmp_path / "page.html"
    run(photos, tiny_bundle, out)
    words = [sys.executable, "-m", "purifyctl", "report", str(out), "--out", str(file), "--json"]
    done = subprocess.run(words, capture_output=True, text=True, cwd=Path(__file__).parents[1], check=True)
    figures = json.loads(done.stdout)
    assert figures["report"] == str(file)
    assert figures["rows"] == 10
    assert_harmless(Page(file))
    assert not (out / "report.html").exists()
    assert sorted(f.name for f in tmp_path.iterdir()) == ["out", "page.html", "photos"]


def test_another_run_in_the_same_folder_takes_the_old_report_away(
    photos: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run(photos, tiny_bundle, out)
    write_report(out)
    run(photos, tiny_bundle, out, RunOptions(on_existing="overwrite"))
    assert not (out / "report.html").exists()


def test_pauses_are_not_averaged_into_the_throughput() -> None:
    timeline = Timeline()
    for begin in (1.7e9, 1.7e9 + 40_000):
        timeline.add(np.repeat(begin + np.arange(600) * 0.5, 8))  # 16 a second, for five minutes
    found = timeline.stretches(200)
    assert [round(s.end - s.begin) for s in found] == [300, 300]
    rates = np.concatenate([s.rates for s in found])
    assert 150 < len(rates) <= 200
    assert rates == pytest.approx(16, rel=0.02)


def test_a_timeline_of_weeks_grows_coarser_and_counts_all() -> None:
    timeline = Timeline()
    for day in range(21):
        timeline.add(1.7e9 + 86_400 * day + np.arange(0, 86_400, 4.0))
    (whole,) = timeline.stretches(200)
    assert len(timeline._counts) <= EVENTS
    assert whole.rates == pytest.approx(0.25, rel=0.02)


def test_percentiles_from_bins_are_within_one_percent() -> None:
    values = np.random.default_rng(0).gamma(2, 30, 20_000)
    histogram = Histogram()
    for part in np.split(values, 20):
        histogram.add(np.append(part, np.nan))
    for p in PERCENTILES:
        assert histogram.percentile(p) == pytest.approx(np.percentile(values, p), rel=0.011)
    assert histogram.n == 20_000
    assert histogram.sum == pytest.approx(values.sum())
    assert histogram.rebinned(np.array([0, 1e6])) == [20_000]
    same = Histogram()
    same.add(np.zeros(5))
    assert same.percentile(99) == 0


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
    return folder / "out" / "report.html"


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
    assert len(seen["images"]) == 36
    assert min(seen["images"]) > 0
    assert seen["width"] == width
    assert seen["scroll_width"] <= width
    assert seen["sticking_out"] == []
    background = Image.new("RGB", (1, 1), seen["background"]).getpixel((0, 0))
    assert (sum(background) < 200) == (scheme == "dark")
