import contextlib
import io
import os
import tarfile
import tempfile
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from purifyctl.engine.backends import to_host
from purifyctl.errors import ConfigError, ImageError
from purifyctl.images import Decoder, GpuJpegEncoder, encode
from purifyctl.images.decode import Decoded
from purifyctl.images.synthetic import natural_images
from purifyctl.sources import ImageFile, list_images, open_source, read_file
from purifyctl.sources.listing import sorted_lines
from purifyctl.sources.sketch import count_known, sketch
from tests import tiny

FORMATS = ("png", "webp", "jpeg")


def as_bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


@pytest.fixture(scope="module", params=["cpu", pytest.param("gpu", marks=tiny.GPU)])
def decoder(request: pytest.FixtureRequest) -> Decoder:
    return Decoder(size=48, batch_size=8, threads=2, device_id=0 if request.param == "gpu" else None)


def pixels(decoded: Decoded) -> np.ndarray:
    return to_host(decoded.images)


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


def test_good_images_of_a_bad_batch_are_what_they_are_alone(decoder: Decoder) -> None:
    good = [as_bytes(tiny.encoded(tiny.photograph(seed=i), "JPEG")) for i in range(4)]
    bad = as_bytes(tiny.hostile_files()["truncated.jpg"][0])
    decoded = decoder.decode([good[0], bad, good[1], bad, good[2], good[3]])
    assert decoded.positions == [0, 2, 4, 5]
    assert np.array_equal(pixels(decoded), pixels(decoder.decode(good)))


@tiny.needs_gpu
def test_a_gpu_decodes_to_the_pixels_of_a_cpu_but_for_rounding(decoder: Decoder) -> None:
    files = [as_bytes(tiny.encoded(tiny.photograph((300, 200), seed=i), "JPEG", quality=95)) for i in range(8)]
    here, there = (
        pixels(Decoder(size=128, batch_size=8, threads=2, device_id=device).decode(files)).astype(int)
        for device in (None, 0)
    )
    assert np.abs(here - there).mean() < 1


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


def test_listing_is_sorted_and_leaves_out_hidden_files_and_the_output(tmp_path: Path) -> None:
    for name in ("b/2.jpg", "a/1.jpg", "a/.hidden.jpg", ".git/x.jpg", "out/images/1.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [str(image.path) for image in list_images(tmp_path, skip_folder=tmp_path / "out")]
    assert found == ["a/1.jpg", "b/2.jpg", "notes.txt"]
    assert [str(i.path) for i in list_images(tmp_path, include=["*.jpg"], exclude=["out/*", "b/*"])] == ["a/1.jpg"]


def test_a_source_without_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no files"):
        list_images(tmp_path)
    with pytest.raises(ConfigError, match="no folder or file"):
        list_images(tmp_path / "missing")


def test_what_is_no_regular_file_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.jpg"
    os.mkfifo(pipe)
    for file in (pipe, tmp_path / "missing.jpg", tmp_path):
        with pytest.raises(ImageError) as caught:
            read_file(ImageFile(file, PurePosixPath(file.name)))
        assert caught.value.status == "unreadable"


def test_a_file_of_many_bytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "video.mp4"
    with file.open("wb") as stream:
        stream.truncate(10 * 2**40)  # sparse
    with pytest.raises(ImageError) as caught:
        read_file(ImageFile(file, PurePosixPath(file.name)))
    assert caught.value.status == "too_large"


def test_tar_shards_are_read_where_their_members_lie(tmp_path: Path) -> None:
    photo = tiny.encoded(tiny.photograph(), "JPEG")
    with tarfile.open(tmp_path / "part-0.tar", "w") as shard:
        for name in ("cats/1.jpg", "cats/1.json", "dogs/._2.jpg", "/dogs/2.jpg", "./cats//1.jpg", "../../etc/3.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(photo)
            shard.addfile(member, io.BytesIO(photo))
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        shard.addfile(link)
    (tmp_path / "loose.jpg").write_bytes(photo)
    (tmp_path / "part-0.tar.md5").touch()
    found = {str(image.path): image for image in list_images(tmp_path, exclude=["*.md5"])}
    good = ["loose.jpg", "part-0.tar/cats/1.jpg", "part-0.tar/dogs/2.jpg"]
    bad = {"part-0.tar/../../etc/3.jpg": "out of the archive", "part-0.tar/link.jpg": "a link"}
    assert set(found) == {*good, *bad}
    assert all(read_file(found[path]).tobytes() == photo for path in good)
    for path, why in bad.items():
        with pytest.raises(ImageError, match=why):
            read_file(found[path])
    alone = list_images(tmp_path / "part-0.tar")
    assert [image.path for image in alone] == [found[path].path for path in sorted(found)[1:]]


def test_a_damaged_shard_is_an_input_that_cannot_be_read_beside_what_it_still_holds(tmp_path: Path) -> None:
    photo = tiny.encoded(tiny.photograph(), "JPEG")
    with tarfile.open(tmp_path / "short.tar", "w") as shard:
        for name in ("1.jpg", "2.jpg"):
            member = tarfile.TarInfo(name)
            member.size = len(photo)
            shard.addfile(member, io.BytesIO(photo))
    data = (tmp_path / "short.tar").read_bytes()
    (tmp_path / "short.tar").write_bytes(data[: 2 * tarfile.BLOCKSIZE + len(photo)])
    (tmp_path / "bad.tar").write_bytes(b"no shard" * 200)
    found = list_images(tmp_path)
    assert [str(image.path) for image in found] == ["bad.tar", "short.tar", "short.tar/1.jpg"]
    assert [bool(image.problem) for image in found] == [True, True, False]


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\0"])
def test_a_list_names_the_files_to_take(separator: str, tmp_path: Path) -> None:
    names = ["b/2.jpg", "./a/1.jpg", "", "b/2.jpg", str(tmp_path / "c.jpg"), "gone.jpg", "b//3.jpg"]
    (tmp_path / "list").write_text(separator.join(names))
    found = list(open_source(tmp_path).inputs(files_from=tmp_path / "list", exclude=["*3.jpg"]))
    assert [f.path for f in found] == [b"a/1.jpg", b"b/2.jpg", b"c.jpg", b"gone.jpg"]
    assert found[1].file == os.fsencode(tmp_path / "b" / "2.jpg")


@pytest.mark.parametrize("name", ["/etc/passwd", "../x.jpg", "a/../../x.jpg", "."])
def test_a_list_that_leads_out_of_the_source_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(name)
    with pytest.raises(ConfigError, match="no file in SRC"):
        list(open_source(tmp_path).inputs(files_from=tmp_path / "list"))


@given(st.lists(st.binary(max_size=4).filter(lambda b: b"\0" not in b)), st.integers(1, 5))
def test_sorting_on_disk_is_sorting(lines: list[bytes], in_memory: int) -> None:
    assert list(sorted_lines(iter(lines), in_memory)) == sorted(lines)


def test_links_to_folders_and_folders_that_cannot_be_listed_are_inputs_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / "1.jpg").touch()
    (tmp_path / "again").symlink_to("cats")
    (tmp_path / "circle").symlink_to("circle")
    found = {str(image.path): image.problem for image in list_images(tmp_path)}
    assert set(found) == {"again", "cats/1.jpg", "circle"}
    assert "link to a folder" in found["again"]


@given(st.lists(st.lists(st.text("aB.-/_", min_size=1, max_size=3), min_size=1, max_size=3), max_size=12))
def test_the_listing_is_in_the_order_of_the_paths_whatever_they_are_called(names: list[list[str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for parts in names:
            file = root.joinpath(*(part.replace("/", "").lstrip(".") or "x" for part in parts))
            with contextlib.suppress(OSError):  # a file where a folder should be
                file.parent.mkdir(parents=True, exist_ok=True)
                file.touch()
        expected = sorted(os.fsencode(f.relative_to(root)) for f in root.rglob("*") if f.is_file())
        assert [found.path for found in open_source(root).inputs()] == expected


def test_synthetic_images_are_the_same_every_time_and_fall_off_like_photographs() -> None:
    images = natural_images(2, 64)
    assert np.array_equal(images, natural_images(2, 64))
    neighbours = np.corrcoef(images[:, :, 1:].ravel(), images[:, :, :-1].ravel())[0, 1]
    assert neighbours > 0.7


def test_a_sketch_knows_its_photographs_wherever_they_lie_and_no_others(tmp_path: Path) -> None:
    for folder in ("here", "there"):
        (tmp_path / folder).mkdir()
        for i in range(9):
            (tmp_path / folder / f"{i}.jpg").write_bytes(bytes(i))
    (tmp_path / "there" / "0.jpg").write_bytes(b"another")
    here, there = list_images(tmp_path / "here"), list_images(tmp_path / "there")
    assert count_known(here, sketch(here)) == 9
    assert count_known(there, sketch(here)) == 8
    assert count_known(here, sketch(here, limit=4)) == count_known(here, sketch(here[::-1], limit=4)) == 4
    assert count_known(here, "") == count_known([], sketch(here)) == 0
