"""Files whose data is damaged or ends early are not taken for sound ones, and sound ones not for damaged."""

import contextlib
import io
import random

import numpy as np
import pytest
from PIL import Image

from purifyctl.config.kinds import KINDS
from purifyctl.config.picture_options import PictureOptions
from purifyctl.errors import ImageError
from purifyctl.images import Decoder
from purifyctl.images.damage import damage, too_many_scans
from purifyctl.images.pillow import decode_picture
from tests import pictures, tiny

KIND = {kind.name: kind for kind in KINDS}
JPEG = tiny.encoded(tiny.photograph((320, 240)), "JPEG", quality=95)
KEEP = PictureOptions(damaged="keep")


def found(data: bytes, kind: str = "JPEG", *, progressive: bool = False) -> str | None:
    return damage(KIND[kind], np.frombuffer(data, np.uint8), progressive=progressive)


def lost(data: bytes, start: float, n: int, filling: bytes) -> bytes:
    """A copy in which n bytes from a place on are others."""
    at = int(len(data) * start)
    return data[:at] + filling * n + data[at + n :]


SOUND = {
    "plain": JPEG,
    "bytes behind the end": JPEG + b"trailer" * 50,
    "no mark of the end": JPEG[:-2],
    "zeros in front of the end": JPEG[:-2] + bytes(64) + JPEG[-2:],
    "filling in front of the end": JPEG[:-2] + b"\xff" * 64 + JPEG[-2:],
    "with restart markers": tiny.encoded(tiny.photograph(), "JPEG", restart_marker_blocks=3),
    "inks": tiny.encoded(tiny.photograph().convert("CMYK"), "JPEG"),
    "grey": tiny.encoded(tiny.photograph().convert("L"), "JPEG"),
    "one colour": tiny.encoded(Image.new("RGB", (200, 100), "grey"), "JPEG"),
}
DAMAGED = {
    "a tenth and the end": JPEG[: len(JPEG) // 10] + b"\xff\xd9",
    "half": JPEG[: len(JPEG) // 2],
    "zeros at the end": lost(JPEG, 0.6, int(len(JPEG) * 0.4), b"\0"),
    "letters in the middle": lost(JPEG, 0.5, 400, b"U"),
    "zeros in the middle": lost(JPEG, 0.5, 100, b"\0"),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_jpeg_is_sound(name: str) -> None:
    assert found(SOUND[name]) is None


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_jpeg_is_found_refused_and_kept_on_request(name: str) -> None:
    assert found(DAMAGED[name])
    with pytest.raises(ImageError, match="JPEG data is damaged or ends early") as refused:
        decode_picture(DAMAGED[name])
    assert refused.value.status == "decode_failed"
    kept = decode_picture(DAMAGED[name], KEEP)
    assert kept.pixels.shape == (240, 320, 3)
    assert kept.damaged == str(refused.value)


def test_a_damaged_progressive_jpeg_is_found() -> None:
    data = tiny.encoded(tiny.photograph((320, 240)), "JPEG", quality=90, progressive=True)
    assert found(data, progressive=True) is None
    for bad in (data[: len(data) // 2] + b"\xff\xd9", data[: len(data) // 2], lost(data, 0.6, 300, b"U")):
        assert found(bad, progressive=True)


def test_it_says_how_much_is_missing() -> None:
    assert "about 9" in str(found(DAMAGED["a tenth and the end"]))
    assert "% of the picture is missing at the bottom" in str(found(DAMAGED["half"]))


def test_most_holes_in_the_data_are_found() -> None:
    chance = random.Random(0)
    start = JPEG.rindex(b"\xff\xda") + 14
    noticed = 0
    for _ in range(100):
        at = chance.randrange(start, len(JPEG) - 258)
        noticed += found(JPEG[:at] + chance.randbytes(256) + JPEG[at + 256 :]) is not None
    assert noticed >= 90  # the others change what some blocks show, and no decoder can know it


def test_junk_between_the_markers_of_a_header_loses_nothing() -> None:
    at = JPEG.index(b"\xff\xdb")
    assert found(JPEG[:at] + b"junk" + JPEG[at:]) is None


def test_a_png_that_was_changed_or_ends_early_is_found() -> None:
    data = tiny.encoded(tiny.photograph(), "PNG")
    assert found(data, "PNG") is None
    assert found(data + b"behind the end", "PNG") is None
    assert "ends early: " in str(found(data[:-400], "PNG"))
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    assert "sum of its chunk IDAT is wrong" in str(found(bytes(changed), "PNG"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "AVIF", "BMP", "TGA", "PPM", "JPEG2000", "QOI", "SGI", "PCX"])
def test_half_of_any_file_is_refused_and_what_is_left_of_it_kept_on_request(kind: str) -> None:
    data = pictures.encoded(tiny.photograph(), kind)
    with pytest.raises(ImageError) as refused:
        decode_picture(data[: len(data) // 2])
    assert refused.value.status in ("decode_failed", "not_an_image")
    with contextlib.suppress(ImageError):  # nothing is left
        assert decode_picture(data[: len(data) // 2], KEEP).damaged


@pytest.mark.parametrize(("options", "statuses"), [(PictureOptions(), ["decode_failed"] * 2), (KEEP, [])])
def test_damaged_files_leave_the_others_of_their_batch_alone(options: PictureOptions, statuses: list[str]) -> None:
    files = [JPEG, DAMAGED["half"], tiny.encoded(tiny.photograph(), "GIF"), DAMAGED["letters in the middle"], JPEG]
    with Decoder(size=32, batch_size=5, threads=2, options=options) as decoder:
        decoded = decoder.decode([np.frombuffer(data, np.uint8) for data in files])
    assert [error.status for error in decoded.errors.values()] == statuses
    assert [facts.decoder for facts in decoded.facts if not facts.damaged] == ["dali", "pillow", "dali"]
    assert len([facts for facts in decoded.facts if facts.damaged]) == 2 - len(statuses)
    assert np.array_equal(decoded.images[0], decoded.images[-1])


def test_a_sampling_that_the_check_does_not_know_is_left_to_the_decoders() -> None:
    at = JPEG.index(b"\xff\xc0") + 11  # the first colour's sampling factors
    assert found(JPEG[:at] + b"\x31" + JPEG[at + 1 :]) is None
    assert found(JPEG[:at] + b"\x00" + JPEG[at + 1 :]) is None


def test_bytes_that_mean_nothing_raise_only_what_a_row_can_say() -> None:
    chance = random.Random(1)
    originals = [
        data for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "TGA", "ICO") for _, data in pictures.saved(kind)
    ]
    for _ in range(150):
        data = bytearray(chance.choice(originals))
        for _ in range(chance.randint(1, 12)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        try:
            picture = decode_picture(bytes(data), chance.choice([KEEP, PictureOptions(max_pixels=10**6)]))
        except ImageError:
            continue
        assert picture.pixels.dtype == np.uint8
        assert picture.pixels.ndim == 3
        io.BytesIO(picture.pixels.tobytes())


def test_a_picture_of_a_thousand_scans_is_refused_at_once() -> None:
    data = pictures.of_many_scans(2400)
    with pytest.raises(ImageError, match=r"passes over its 5,760,000 pixels 883 times") as caught:
        decode_picture(data)
    assert caught.value.status == "too_large"
    with Decoder(size=32, batch_size=1, threads=1) as decoder:
        assert decoder.decode([np.frombuffer(data, np.uint8)]).errors[0].status == "too_large"


def test_many_scans_of_few_pixels_and_usual_scans_of_many_are_decoded() -> None:
    assert decode_picture(pictures.of_many_scans(40)).pixels.shape == (40, 40, 3)
    usual = np.frombuffer(tiny.encoded(tiny.photograph(), "JPEG", progressive=True), np.uint8)
    assert too_many_scans(usual, 10**9) is None
