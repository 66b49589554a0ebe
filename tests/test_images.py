import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from purifyctl.engine.backends import to_host
from purifyctl.errors import BackendError
from purifyctl.images import Decoder, GpuJpegEncoder, encode
from purifyctl.images.dali import Squares
from purifyctl.images.decode import Decoded
from purifyctl.images.synthetic import natural_images
from tests import tiny

FORMATS = ("png", "webp", "jpeg")


def as_bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


@pytest.fixture(scope="module", params=["cpu", pytest.param("gpu", marks=tiny.GPU)])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return Decoder(size=48, batch_size=8, threads=2, device_id=0 if request.param == "gpu" else None)


def pixels(decoded: Decoded) -> np.ndarray:
    return to_host(decoded.images)


@pytest.mark.slow
def test_every_hostile_file_gets_its_own_status_and_the_others_their_image(decoder: Decoder) -> None:
    hostile = tiny.hostile_files()
    statuses = {}
    for start in range(0, len(hostile), 8):
        part = list(hostile)[start : start + 8]
        decoded = decoder.decode([as_bytes(hostile[name][0]) for name in part])
        statuses |= {part[i]: error.status for i, error in decoded.errors.items()}
        statuses |= {part[i]: "ok" for i in decoded.positions}
        assert pixels(decoded).shape == (len(decoded.positions), 48, 48, 3)
        assert pixels(decoded).dtype == np.uint8
    assert statuses == {name: status for name, (_, status) in hostile.items()}


@pytest.mark.slow
def test_good_images_of_a_bad_batch_are_what_they_are_alone(decoder: Decoder) -> None:
    good = [as_bytes(tiny.encoded(tiny.photograph(seed=i), "JPEG")) for i in range(4)]
    bad = as_bytes(tiny.hostile_files()["truncated.jpg"][0])
    decoded = decoder.decode([good[0], bad, good[1], bad, good[2], good[3]])
    assert decoded.positions == [0, 2, 4, 5]
    assert np.array_equal(pixels(decoded), pixels(decoder.decode(good)))


@tiny.needs_gpu
def test_a_gpu_decodes_to_the_pixels_of_a_cpu_except_for_rounding(decoder: Decoder) -> None:
    files = [as_bytes(tiny.encoded(tiny.photograph((300, 200), seed=i), "JPEG", quality=95)) for i in range(8)]
    here, there = (
        pixels(Decoder(size=128, batch_size=8, threads=2, device_id=device).decode(files)).astype(int)
        for device in (None, 0)
    )
    assert np.abs(here - there).mean() < 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_pipelines_for_a_gpu_build_up_to_the_missing_driver() -> None:
    """DALI checks names and parameters of all operators before it looks for a GPU."""
    squares = Squares(size=32, batch_size=2, threads=1, device_id=0)
    with pytest.raises(BackendError, match="CUDA is not available"):
        squares.of_files([(0, as_bytes(tiny.encoded(tiny.photograph(), "JPEG")))])
    with pytest.raises(BackendError, match="CUDA is not available"):  # what another library decoded
        squares.of_pixels([(0, np.zeros((40, 50, 3), np.uint8))])


def test_exif_rotation_is_applied_to_the_picture_and_to_its_size(decoder: Decoder) -> None:
    photo = tiny.photograph((90, 60))
    exif = Image.Exif()
    exif[274] = 6
    decoded = decoder.decode([as_bytes(tiny.encoded(photo, "JPEG", exif=exif, quality=95))])
    upright = decoder.decode([as_bytes(tiny.encoded(photo.transpose(Image.Transpose.ROTATE_270), "PNG"))])
    assert decoded.sizes == [(90, 60)]
    assert np.abs(pixels(decoded).astype(int) - pixels(upright)).mean() < 3


def test_colour_models_become_the_same_rgb(decoder: Decoder) -> None:
    photo = tiny.photograph()
    plain, alpha, grey16 = (
        pixels(decoder.decode([as_bytes(data)]))[0].astype(int)
        for data in (
            tiny.encoded(photo, "PNG"),
            tiny.encoded(photo.convert("RGBA"), "PNG"),
            tiny.hostile_files()["deep.png"][0],
        )
    )
    assert np.array_equal(plain, alpha)
    grey = pixels(decoder.decode([as_bytes(tiny.encoded(photo.convert("L"), "PNG"))]))[0].astype(int)
    assert np.abs(grey16 - grey).max() <= 1


@pytest.mark.parametrize("device", ["cpu", pytest.param("gpu", marks=tiny.GPU)])
def test_batches_become_the_jpeg_files_that_pillow_would_write(device: str) -> None:
    photos = np.stack([np.asarray(tiny.photograph((96, 64), seed=i)) for i in range(3)])
    batch = torch.from_numpy(photos).cuda() if device == "gpu" else photos
    files = GpuJpegEncoder(0 if device == "gpu" else None).encode(batch)
    for photo, data in zip(photos, files, strict=True):
        assert data is not None
        here, ours = (np.asarray(Image.open(io.BytesIO(d))).astype(int) for d in (encode(photo, "jpeg"), data))
        assert np.abs(here - ours).mean() < 0.5
        assert np.abs(here - photo).mean() < 3


@pytest.mark.parametrize("size", [(300, 200), (200, 300), (481, 367), (97, 64), (65, 64), (375, 500), (64, 67)])
def test_decoding_is_torchvisions_resize_and_centre_crop(size: tuple[int, int]) -> None:
    photo = tiny.photograph(size)
    decoded = Decoder(size=64, batch_size=1, threads=1).decode([as_bytes(tiny.encoded(photo, "PNG"))])
    reference = v2.Compose([v2.Resize(64, antialias=True), v2.CenterCrop(64)])(
        torch.from_numpy(np.array(photo)).permute(2, 0, 1)
    )
    difference = np.abs(decoded.images[0].astype(int) - reference.permute(1, 2, 0).numpy())
    assert difference.mean() < 0.5
    assert difference.max() <= 3


def test_an_image_of_the_engines_size_is_not_touched() -> None:
    photo = natural_images(1, 64)[0]
    decoded = Decoder(size=64, batch_size=1, threads=1).decode([as_bytes(encode(photo, "png"))])
    assert np.array_equal(decoded.images[0], photo)


def test_our_pixel_limit_decides_even_where_pillows_would() -> None:
    data = as_bytes(tiny.encoded(Image.new("1", (20_000, 10_000)), "PNG"))
    strict = Decoder(size=16, batch_size=1, threads=1).decode([data])
    assert strict.errors[0].status == "too_large"
    assert "20000x10000 is more than the 100,000,000 pixels" in str(strict.errors[0])


def test_big_images_are_decoded_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("purifyctl.images.decode.BATCH_PIXELS", 90 * 60 * 2)
    files = [as_bytes(tiny.encoded(tiny.photograph(seed=i), "PNG")) for i in range(5)]
    decoded = Decoder(size=16, batch_size=8, threads=1).decode(files)
    assert decoded.positions == [0, 1, 2, 3, 4]
    assert decoded.images.shape == (5, 16, 16, 3)


@pytest.mark.parametrize("image_format", FORMATS)
def test_encoded_images_decode_to_what_they_were(image_format: str, tmp_path: Path) -> None:
    photo = np.array(tiny.photograph())
    file = tmp_path / "photo"
    file.write_bytes(encode(photo, image_format))
    with Image.open(file) as image:
        difference = np.abs(np.asarray(image.convert("RGB")).astype(int) - photo)
    assert difference.max() == 0 or (image_format == "jpeg" and difference.mean() < 2)


def test_synthetic_images_are_the_same_every_time_and_fall_off_like_photographs() -> None:
    images = natural_images(2, 64)
    assert np.array_equal(images, natural_images(2, 64))
    neighbours = np.corrcoef(images[:, :, 1:].ravel(), images[:, :, :-1].ravel())[0, 1]
    assert neighbours > 0.7
