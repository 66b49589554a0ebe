"""A run over files of many kinds: who decodes them, what their rows and the summary say, and what is kept of them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from purifyctl.engine.bundle import Bundle
from purifyctl.run import RunOptions, run
from tests import pictures, tiny
from tests.test_colour import in_profile, profile
from tests.test_damage import DAMAGED
from tests.test_run import rows_of


@pytest.fixture
def many_kinds(tmp_path: Path) -> Path:
    folder = tmp_path / "many"
    folder.mkdir()
    photo = tiny.photograph()
    for kind, name in (("JPEG", "a.jpg"), ("PNG", "a.png"), ("GIF", "a.gif"), ("AVIF", "a.avif"), ("TGA", "a.tga")):
        (folder / name).write_bytes(pictures.encoded(photo, kind))
    (folder / "moving.gif").write_bytes(
        pictures.encoded(photo, "GIF", save_all=True, append_images=[Image.new("L", (9, 9))])
    )
    (folder / "wide.png").write_bytes(pictures.encoded(in_profile(profile()), "PNG", icc_profile=profile()))
    (folder / "tenth.jpg").write_bytes(DAMAGED["a tenth and the end"])
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(400))
    return folder


def test_rows_say_who_decoded_a_file_and_what_was_done_to_its_colours(
    many_kinds: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    result = run(many_kinds, tiny_bundle, tmp_path / "out")
    rows = {row["path"]: row for row in rows_of(tmp_path / "out")}
    decoders = {name: row["decoder"] for name, row in rows.items() if row["status"] == "ok"}
    assert decoders == {
        "a.jpg": "dali", "a.png": "dali", "a.gif": "pillow", "a.avif": "pillow", "a.tga": "pillow",
        "moving.gif": "pillow", "wide.png": "pillow",
    }  # fmt: skip
    assert {name for name, row in rows.items() if row["first_frame"]} == {"moving.gif"}
    assert {name: row["profile"] for name, row in rows.items() if row["profile"]} == {"wide.png": "wide"}
    assert rows["tenth.jpg"]["status"] == "decode_failed"
    assert "of the picture is missing" in rows["tenth.jpg"]["error"]
    assert rows["phone.heic"]["status"] in ("unsupported_format", "not_an_image")
    assert "HEIC" in rows["phone.heic"]["error"]
    counts = {"decoders": {"pillow": 5, "dali": 2}, "damaged": 0, "converted": 1, "first_frames": 1}
    assert result.summary["pictures"] == counts
    assert result.exit_code == 3
    for name in ("a.png", "a.gif"):  # lossless kinds of one photograph become one image
        assert rows[name]["mean_change"] == pytest.approx(rows["a.tga"]["mean_change"], abs=1)


def test_damaged_files_are_purified_on_request_and_marked(
    many_kinds: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    result = run(many_kinds, tiny_bundle, tmp_path / "out", RunOptions(damaged="keep", include=("*.jpg",)))
    rows = {row["path"]: row for row in rows_of(tmp_path / "out")}
    assert (rows["tenth.jpg"]["status"], rows["a.jpg"]["damaged"]) == ("ok", None)
    assert "of the picture is missing" in rows["tenth.jpg"]["damaged"]
    assert (tmp_path / "out" / rows["tenth.jpg"]["output"]).is_file()
    assert result.summary["pictures"]["damaged"] == 1
    assert result.exit_code == 0


@pytest.mark.slow
def test_the_background_shows_in_what_is_purified(tiny_bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    nothing = Image.new("RGBA", (40, 40), (255, 0, 255, 0))
    nothing.save(tmp_path / "in" / "a.png")
    changes = []
    for background in ("white", "#000000"):
        out = tmp_path / background.strip("#")
        run(tmp_path / "in", tiny_bundle, out, RunOptions(background=background))
        (row,) = rows_of(out)
        changes.append(np.asarray(Image.open(out / row["output"])).mean())
    assert changes[0] > changes[1] + 100
