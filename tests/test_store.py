"""Object stores as sources, and for images: an S3 server on this machine, and fsspec's own memory."""

import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from purifyctl.engine.bundle import Bundle
from purifyctl.errors import BackendError, ConfigError, ImageError, OutputError
from purifyctl.run import RunOptions, run
from purifyctl.sources import open_source
from tests.remote import ODD, archive, at, images_of, read_all, rows_of

pytest.importorskip("aiohttp")


def test_any_of_fsspecs_file_systems_is_a_tree(photos: Path, tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    archive(tmp_path / "part.tar", {"1.jpg": b"one", "2.jpg": b""})
    files = {name: os.urandom(9) for name in ODD} | {"b/part.tar": (tmp_path / "part.tar").read_bytes(), "b.jpg": b""}
    for name, data in files.items():
        memory.pipe(f"/tests/{name}", data)
    expected = {name: data for name, data in files.items() if not name.endswith(".tar")}
    expected |= {"b/part.tar/1.jpg": b"one", "b/part.tar/2.jpg": b""}
    found = read_all(open_source("memory://tests"))
    assert found == expected
    assert list(found) == sorted(expected, key=os.fsencode)
    (tmp_path / "list").write_text("b.jpg\nmemory://tests/a b#1%.jpg")
    assert list(read_all(open_source("memory://tests/"), files_from=tmp_path / "list")) == ["a b#1%.jpg", "b.jpg"]
    memory.rm("/tests", recursive=True)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The empty bucket "photos" of an S3 server; `bucket(key, data)` puts something into it."""
    pytest.importorskip("s3fs")
    moto = pytest.importorskip("moto.server")
    import boto3
    from moto.backends import get_backend

    server = moto.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "password",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    get_backend("s3").reset()  # it lives in this process
    client.create_bucket(Bucket="photos")
    yield lambda key, data: client.put_object(Bucket="photos", Key=key, Body=data)
    client.close()
    server.stop()
    gc.collect()


@pytest.mark.slow
def test_an_s3_prefix_gives_the_rows_and_images_of_the_same_folder(
    photos: Path, bucket: Any, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    photo = (photos / "cats" / "1.jpg").read_bytes()
    (photos / "zero.jpg").touch()
    (photos / "text.jpg").write_text("no image")
    for name in ODD:
        if "\n" not in name:  # which this server does not take
            (photos / name).write_bytes(photo)
    archive(photos / "part.tar", {"1.jpg": photo, "2.jpg": b""})
    for file in photos.rglob("*"):
        if file.is_file():
            bucket(f"all/{file.relative_to(photos)}", file.read_bytes())
    bucket("all/cats/", b"")  # as consoles make folders
    run(photos, tiny_bundle, tmp_path / "here")
    for url in ("s3://photos/all", "s3://photos/all/"):
        result = run(url, tiny_bundle, tmp_path / "there")
        assert result.exit_code == 3
    assert rows_of(tmp_path / "there") == rows_of(tmp_path / "here")
    assert images_of(tmp_path / "there") == images_of(tmp_path / "here")
    with pytest.raises(ConfigError, match="is not there"):
        list(open_source("s3://photos/none").inputs())
    with pytest.raises(ConfigError, match="cannot be listed"):
        list(open_source("s3://no-such-bucket").inputs())


def test_keys_that_no_folder_could_have_are_distinguished(bucket: Any) -> None:
    for key in ("a", "a/1.jpg", "b//2.jpg", "b/../3.jpg", "x.tar", "x.tar/4.jpg", "c.png", "c.png/5.jpg", "z/", ".h"):
        bucket(key, b"")
    source = open_source("s3://photos")
    found = {f.path: f.problem for f in source.inputs()}
    readable = [path for path, problem in found.items() if not problem]
    assert readable == [b"a", b"a/1.jpg", b"c.png", b"c.png/5.jpg", b"x.tar/4.jpg"]
    assert set(found) - set(readable) == {b"b/../", b"b//", b"x.tar"}
    assert list(found) == sorted(found)
    with pytest.raises(ImageError, match=r"from s3://photos/gone\.jpg: it is not there"):
        source.read(at("s3://photos/gone.jpg"), 1000)


def test_no_more_of_an_object_than_the_limit_is_loaded(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("purifyctl.sources.store.FIRST_BYTES", 1000)
    data = os.urandom(5000)
    bucket("large.jpg", data)
    source = open_source("s3://photos")
    assert source.read(at("s3://photos/large.jpg"), 5000).tobytes() == data
    for limit in (500, 4999):
        with pytest.raises(ImageError) as caught:
            source.read(at("s3://photos/large.jpg"), limit)
        assert caught.value.status == "too_large"


def faulty(fault: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "tests.faulty_worker", fault)


def keys_of(prefix: str) -> dict[str, bytes]:
    import boto3

    client = boto3.client("s3")
    listed = client.list_objects_v2(Bucket="photos", Prefix=prefix).get("Contents", [])
    found = {o["Key"]: client.get_object(Bucket="photos", Key=o["Key"])["Body"].read() for o in listed}
    client.close()
    return {key.removeprefix(prefix): data for key, data in found.items()}


@pytest.mark.slow
def test_images_go_into_a_bucket_and_a_run_that_stops_is_resumed(
    photos: Path, bucket: Any, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    (photos / "zero.jpg").touch()
    (photos / os.fsdecode(b"caf\xe9.jpg")).write_bytes((photos / "cats" / "1.jpg").read_bytes())  # no name for a key
    options = RunOptions(images_to="s3://photos/clean/")
    with pytest.raises(BackendError, match="device is gone"):
        run(photos, tiny_bundle, tmp_path / "out", options, worker=faulty("engine-fails=2"))
    result = run(photos, tiny_bundle, tmp_path / "out", options)
    assert result.summary["statuses"] == {"ok": 10, "empty": 1, "write_failed": 1}
    assert not (tmp_path / "out" / "images").exists()
    run(photos, tiny_bundle, tmp_path / "here")
    written = keys_of("clean/")
    assert written.pop("run.json") == (tmp_path / "out" / "run.json").read_bytes()
    assert written == {k.removeprefix("images/"): v for k, v in images_of(tmp_path / "here").items() if "caf" not in k}
    for row in rows_of(tmp_path / "out"):
        if row["status"] == "ok":
            assert row["output"].removeprefix("s3://photos/clean/") in written


def test_a_bucket_that_cannot_be_written_to_is_reported_before_anything_is_done(
    photos: Path, bucket: Any, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="s3://no-such-bucket/clean cannot be written to"):
        run(photos, tiny_bundle, tmp_path / "out", RunOptions(images_to="s3://no-such-bucket/clean"))
    with pytest.raises(ConfigError, match="would lie among the inputs"):
        run("s3://photos/all", tiny_bundle, tmp_path / "out", RunOptions(images_to="s3://photos/all/clean"))
    for url in ("https://server/clean", "file:///tmp/clean", "clean"):
        with pytest.raises(ConfigError, match="is for object stores"):
            run(photos, tiny_bundle, tmp_path / "out", RunOptions(images_to=url))
    with pytest.raises(ConfigError, match="one by one"):
        RunOptions(images_to="s3://photos/clean", packed=True)


@pytest.mark.slow
def test_a_store_that_is_gone_stops_the_run_and_does_not_fail_every_image(
    photos: Path, bucket: Any, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    options = RunOptions(images_to="s3://photos/clean")
    with pytest.raises(OutputError, match="s3://photos/clean cannot be written to"):
        run(photos, tiny_bundle, tmp_path / "out", options, worker=faulty("store-gone=5"))
    assert run(photos, tiny_bundle, tmp_path / "out", options).exit_code == 0
    assert len(keys_of("clean/")) == 11
