"""Sources that a URL names: a web server and an S3 server on this machine, and fsspec's own memory."""

import gc
import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq
import pytest

from purifyctl.engine.bundle import Bundle
from purifyctl.errors import BackendError, BusyError, ConfigError, ImageError, MissingDependencyError, OutputError
from purifyctl.run import RunOptions, dry_run, run
from purifyctl.sources import ImageFile, Source, list_images, open_source
from purifyctl.sources.urls import split_url, without_secrets
from purifyctl.sources.web import _children
from tests import tiny
from tests.web_server import Server, serving

pytest.importorskip("aiohttp")

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


def shard(file: Path, members: dict[str, bytes]) -> None:
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


@pytest.fixture
def server(photos: Path) -> Iterator[Server]:
    with serving(photos) as serves:
        yield serves
    gc.collect()  # sessions end here, and not in another test


def test_a_web_servers_folder_gives_the_rows_and_images_of_the_folder(
    photos: Path, server: Server, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    hostile = {name: data for name, (data, _) in tiny.hostile_files().items() if name not in ("huge.png", "wide.png")}
    for name, data in hostile.items():
        (photos / name).write_bytes(data)
    for name in ODD:
        (photos / "odd names & others").mkdir(exist_ok=True)
        (photos / "odd names & others" / name).write_bytes(hostile["photo.jpg"])
    (photos / ".hidden.jpg").touch()
    (photos / "empty").mkdir()
    shard(photos / "part.tar", {"cats/1.jpg": hostile["photo.jpg"], "../2.jpg": b"", "cats/1.txt": b"a cat"})
    server.latency = 0.01
    here = run(photos, tiny_bundle, tmp_path / "here")
    there = run(server.url, tiny_bundle, tmp_path / "there")
    assert (here.exit_code, there.exit_code) == (3, 3)
    assert rows_of(tmp_path / "there") == rows_of(tmp_path / "here")
    assert images_of(tmp_path / "there") == images_of(tmp_path / "here")
    assert server.most_at_once > 4  # not one after another
    columns = [pq.read_table(tmp_path / name / "plan.parquet").drop(["file", "start"]) for name in ("here", "there")]
    assert columns[0] == columns[1]
    assert there.summary["source"] == server.url


@pytest.mark.parametrize(
    ("page", "children"),
    [
        (  # Apache
            b'<a href="?C=N;O=D">Name</a> <a href="/photos/">Parent</a> <A HREF="a&amp;b%20c.jpg">a</A> <a href="d/">d',
            {(b"a&b c.jpg", False), (b"d", True)},
        ),
        (  # absolute ones, an icon's, other servers', deeper ones
            b"<a class=x href='/photos/cats/1.jpg'><img></a><a href=/photos/cats/1.jpg>1</a><a href='http://x.org/2.jpg'>"
            b"<a href='http://host/photos/%63ats/3.jpg'>3</a><a href='d/4.jpg'>4</a><a href='../dogs/5.jpg'>",
            {(b"1.jpg", False), (b"3.jpg", False)},
        ),
        (b'<a href="../">../</a><a href="#top">top</a><a href="mailto:a@b.c">w</a><a href="http://[/">', set()),
        (b'<a href="%2e%2e/">up</a><a href="a%2fb.jpg">', {(b"..", True), (b"a/b.jpg", False)}),
        (b"<a href='caf\xc3\xa9.jpg'><a href='caf%e9.jpg'>", {(b"caf\xc3\xa9.jpg", False), (b"caf\xe9.jpg", False)}),
    ],
)
def test_of_an_index_page_the_links_to_what_lies_in_the_folder_count(
    page: bytes, children: set[tuple[bytes, bool]]
) -> None:
    assert set(_children(page, "http://host/photos/cats/")) == children


def test_names_that_lead_out_of_their_folder_are_inputs_that_cannot_be_read(photos: Path, server: Server) -> None:
    (photos / "cats" / "index.html").write_text(
        '<a href="%2e%2e/">up</a><a href="a%2f..%2fb.jpg">b</a><a href="1.jpg">'
    )
    found = {f.path: f.problem for f in open_source(f"{server.url}/cats").inputs()}
    assert list(found) == [b"../", b"1.jpg", b"a%2F..%2Fb.jpg"]
    assert "leads out" in found[b"../"]
    assert "slash" in found[b"a%2F..%2Fb.jpg"]


def test_one_file_and_folders_with_and_without_a_slash_are_sources(photos: Path, server: Server) -> None:
    cats = sorted(f.name for f in (photos / "cats").iterdir())
    for url in (f"{server.url}/cats", f"{server.url}/cats/"):
        assert list(read_all(open_source(url))) == cats
    one = read_all(open_source(f"{server.url}/cats/1.jpg"))
    assert one == {"1.jpg": (photos / "cats" / "1.jpg").read_bytes()}
    assert open_source(f"file://{photos}").on_this_machine == photos
    with pytest.raises(ConfigError, match="is not there"):
        list(open_source(f"{server.url}/dog").inputs())


def test_of_a_tar_shard_only_headers_and_members_are_fetched(photos: Path, server: Server) -> None:
    large = os.urandom(1 << 20)
    shard(photos / "part.tar", {f"{i}.jpg": large for i in range(8)})
    shard(photos / "cut.tar", {"1.jpg": large})
    (photos / "cut.tar").write_bytes((photos / "cut.tar").read_bytes()[: 1 << 19])
    source = open_source(server.url)
    found = list(source.inputs(include=["*.tar/*"]))
    assert [(f.path, bool(f.problem)) for f in found[:2]] == [(b"cut.tar/", True), (b"cut.tar/1.jpg", False)]
    assert server.sent < 2 << 20
    assert source.read(found[4].as_image()).tobytes() == large
    assert server.sent < 4 << 20
    alone = [f.path for f in open_source(f"{server.url}/part.tar").inputs()]
    assert alone == [f.path for f in found[2:]]
    server.ranges = False
    with pytest.raises(ImageError, match="does not send parts"):
        source.read(found[4].as_image())
    (refused,) = open_source(f"{server.url}/part.tar").inputs()
    assert "does not send parts" in refused.problem


def test_servers_that_stumble_are_asked_again_and_what_stays_unread_gets_its_row(
    photos: Path, server: Server, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    server.faults = {
        "/": [503],
        "/cats/1.jpg": [503, 503],
        "/cats/3.jpg": ["truncate"],
        "/cats/5.jpg": ["reset"],
        "/dogs/0.jpg": [404],
        "/dogs/2.jpg": [403],
        "/dogs/4.jpg": [500, 502, 503],
        "/dogs/6.jpg": ["truncate"] * 3,
        "/dogs/8.jpg": ["reset"] * 6,  # aiohttp asks again too, on another connection
    }
    options = RunOptions(include=("dogs/*", "cats/*"))
    assert run(f"{server.url}/", tiny_bundle, tmp_path / "out", options).exit_code == 3
    rows = {row["path"]: row for row in rows_of(tmp_path / "out")}
    assert {path for path, row in rows.items() if row["status"] == "ok"} == {f"cats/{i}.jpg" for i in (1, 3, 5, 7, 9)}
    said = {path: row["error"] for path, row in rows.items() if row["status"] == "unreadable"}
    assert said.pop("dogs/0.jpg") == f"It cannot be read from {server.url}/dogs/0.jpg: it is not there."
    for path, why in {"2": "403", "4": "503", "6": "not completed", "8": "isconnected"}.items():
        assert why in said[f"dogs/{path}.jpg"]
    assert server.asked.count("/dogs/0.jpg") == 1  # asking again would not help
    again = run(server.url, tiny_bundle, tmp_path / "out", RunOptions(include=options.include, retry_failed=True))
    assert (again.exit_code, again.summary["statuses"]) == (0, {"ok": 10})


def test_a_server_that_goes_away_leaves_rows_and_when_it_is_back_they_are_mended(
    photos: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with serving(photos) as server:
        server.requests_left = 3 + 4  # three folders, four files
        port = server.server_port
        assert run(server.url, tiny_bundle, out).exit_code == 3
        url = server.url
    assert sorted(statuses_of(out).values()) == ["ok"] * 4 + ["unreadable"] * 6
    assert run(url, tiny_bundle, out).exit_code == 3  # nothing to do, and nobody to ask
    with serving(photos, port):
        assert run(url, tiny_bundle, out, RunOptions(retry_failed=True)).exit_code == 0
    run(photos, tiny_bundle, tmp_path / "here")
    assert images_of(out) == images_of(tmp_path / "here")
    with pytest.raises(ConfigError, match="source was"):
        run(f"{url}/cats", tiny_bundle, out)


def test_a_server_that_does_not_answer_is_not_waited_for_for_ever(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("purifyctl.sources.web.STALLED_S", 0.1)
    source = open_source(server.url)
    assert source.read(at(f"{server.url}/cats/1.jpg"), 1 << 20).tobytes()
    server.latency = 0.5
    with pytest.raises(ImageError, match="no answer in time"):
        source.read(at(f"{server.url}/cats/3.jpg"), 1 << 20)


def test_a_listing_that_breaks_off_is_no_plan(
    photos: Path, server: Server, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    server.faults = {"/dogs/": [503] * 3}
    with pytest.raises(BusyError, match="cannot be listed: the server answered 503"):
        run(server.url, tiny_bundle, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    shard(photos / "part.tar", {f"{i}.jpg": os.urandom(1 << 20) for i in range(3)})
    server.requests_left = 5  # three folders, the shard's size, its first header
    with pytest.raises(BusyError, match="cannot be listed"):
        list(open_source(server.url).inputs())


def test_folders_that_may_not_be_listed_are_inputs_that_cannot_be_read(server: Server) -> None:
    server.faults = {"/dogs/": [403]}
    (dogs,) = (f for f in open_source(server.url).inputs() if f.problem)
    assert (dogs.path, "403" in dogs.problem) == (b"dogs/", True)


def test_nothing_secret_in_a_url_is_written_anywhere(
    photos: Path, server: Server, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    server.user, server.query = "someone:pass/word", "sig=signature%2B&x=1"
    server.faults = {"/cats/1.jpg": [404], "/cats/3.jpg": [500] * 3}
    shard(photos / "part.tar", {"1.jpg": (photos / "cats" / "5.jpg").read_bytes()})
    there = server.url.replace("://", "://someone:pass%2Fword@") + "/?" + server.query
    out = tmp_path / "out"
    words = [sys.executable, "-m", "purifyctl", "run", there, "--out", out, "--engine", tiny_bundle.path, "--json"]
    words += ["--csv", "--jsonl", "-v"]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 3, done.stderr
    written = done.stdout + done.stderr
    for file in out.rglob("*"):
        if file.suffix == ".parquet":
            written += repr(pq.read_table(file).to_pylist())
        elif file.is_file():
            written += file.read_bytes().decode("latin-1")
    for secret in ("someone", "pass%2Fword", "pass/word", "signature", "sig="):
        assert secret not in written
    assert f"{server.url}/cats/1.jpg" in written
    assert statuses_of(out)["part.tar/1.jpg"] == "ok"
    for wrong in (there.replace("word", "wort"), there.replace("sig=", "sig=2")):
        with pytest.raises(ConfigError, match=r"access is denied \(40[13]") as caught:
            list(open_source(wrong).inputs())
        assert not any(secret in str(caught.value) for secret in ("someone", "wort", "signature"))


def test_what_is_secret_is_found_in_urls_and_texts() -> None:
    assert split_url("https://me:a%2Fb@host:80/a b/%7Ec?sig=1") == ("https://host:80/a%20b/~c", "me:a%2Fb", "sig=1")
    assert split_url("ftp://me:pw@host/x?y") == ("ftp://host/x?y", "me:pw", "")
    assert split_url("abfs://container@account/x") == ("abfs://container@account/x", "", "")
    assert split_url("s3://bucket/a b?c#d//e/") == ("s3://bucket/a b?c#d//e", "", "")
    assert without_secrets("for url 'https://me:pw@host/a?sig=1': no") == "for url 'https://host/a': no"
    for unclear in ("https://me:a/b@host/", "ftp://me:a/b@host/", "https://me:a?b@host/"):
        with pytest.raises(ConfigError, match="malformed") as caught:
            split_url(unclear)
        assert "a/b" not in str(caught.value)


def test_a_list_makes_do_without_index_pages(photos: Path, server: Server, tmp_path: Path) -> None:
    (photos / "a b#1%.jpg").write_bytes(b"odd")
    server.index = False
    with pytest.raises(ConfigError, match="needs --files-from"):
        list(open_source(server.url).inputs())
    server.asked.clear()
    lines = ["cats/1.jpg", "./dogs/0.jpg", "a b#1%.jpg", f"{server.url}/a%20b%231%25.jpg", "gone.jpg", "cats/1.jpg"]
    (tmp_path / "list").write_text("\n".join(lines))
    source = open_source(server.url)
    found = list(source.inputs(files_from=tmp_path / "list"))
    assert [f.path for f in found] == [b"a b#1%.jpg", b"cats/1.jpg", b"dogs/0.jpg", b"gone.jpg"]
    assert server.asked == []
    assert source.read(found[0].as_image()).tobytes() == b"odd"
    for line in ("../x.jpg", "/etc/passwd", "http://elsewhere/x.jpg", "a//b.jpg", f"{server.url}/x.jpg?signature=1"):
        (tmp_path / "list").write_text(line)
        with pytest.raises(ConfigError, match=r"no file in SRC|with a query") as caught:
            list(source.inputs(files_from=tmp_path / "list"))
        assert "signature=1" not in str(caught.value)


def test_no_more_than_the_limit_is_loaded(photos: Path, server: Server) -> None:
    (photos / "video.jpg").write_bytes(bytes(64 << 20))
    source = open_source(server.url)
    for faults in ([], ["endless"]):
        server.faults, server.sent = {"/video.jpg": faults}, 0
        with pytest.raises(ImageError, match="1,000 are allowed") as caught:
            source.read(at(f"{server.url}/video.jpg"), 1000)
        assert caught.value.status == "too_large"
        assert server.sent < 32 << 20  # what sockets hold
    assert source.read(at(f"{server.url}/video.jpg"), 64 << 20).tobytes() == bytes(64 << 20)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("teleport://photos", "knows no protocol teleport"),
        ("simplecache::https://host/photos", "URLs within URLs"),
        ("https:///photos", "names no server"),
    ],
)
def test_urls_that_cannot_be_read_are_refused(url: str, said: str, tiny_bundle: Bundle, tmp_path: Path) -> None:
    for begin in (run, dry_run):
        with pytest.raises(ConfigError, match=said):
            begin(url, tiny_bundle, tmp_path / "out", RunOptions())
    assert not (tmp_path / "out").exists()


def test_a_server_that_is_not_there_may_be_there_later(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BusyError, match="cannot be listed") as caught:
        run("http://127.0.0.1:9/", tiny_bundle, tmp_path / "out")
    assert caught.value.exit_code == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_from_which_the_server_sends_people_away_is_a_row(
    server: Server, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    server.faults = {"/cats/": ["/dogs/"]}
    result = run(f"{server.url}/", tiny_bundle, tmp_path / "out")
    assert result.exit_code == 3
    (row,) = (row for row in rows_of(tmp_path / "out") if row["status"] != "ok")
    assert row["path"] == "cats"
    assert "sends whoever asks for it to /dogs/" in row["error"]


def test_a_protocol_whose_package_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(MissingDependencyError, match=r"gcsfs(.|\n)*purifyctl\[cloud\]"):
        open_source("gs://bucket/photos")


def test_only_run_reads_urls_and_nothing_else_imports_what_reads_them() -> None:
    for path in (Path("https://host/photos"), Path("s3://bucket").absolute()):
        with pytest.raises(ConfigError, match="only run reads from URLs"):
            list_images(path)
    code = "import sys, purifyctl.cli, purifyctl.images; print({'fsspec', 'aiohttp'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_any_of_fsspecs_file_systems_is_a_tree(photos: Path, tmp_path: Path) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    shard(tmp_path / "part.tar", {"1.jpg": b"one", "2.jpg": b""})
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


def test_an_s3_prefix_gives_the_rows_and_images_of_the_same_folder(
    photos: Path, bucket: Any, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    photo = (photos / "cats" / "1.jpg").read_bytes()
    (photos / "zero.jpg").touch()
    (photos / "text.jpg").write_text("no image")
    for name in ODD:
        if "\n" not in name:  # which this server does not take
            (photos / name).write_bytes(photo)
    shard(photos / "part.tar", {"1.jpg": photo, "2.jpg": b""})
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


def test_keys_that_no_folder_could_have_are_told_apart(bucket: Any) -> None:
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


def test_images_go_into_a_bucket_and_a_run_that_stops_goes_on(
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


def test_a_bucket_that_cannot_be_written_to_is_told_before_anything_is_done(
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


def test_a_store_that_is_gone_stops_the_run_and_does_not_fail_every_image(
    photos: Path, bucket: Any, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    options = RunOptions(images_to="s3://photos/clean")
    with pytest.raises(OutputError, match="s3://photos/clean cannot be written to"):
        run(photos, tiny_bundle, tmp_path / "out", options, worker=faulty("store-gone=5"))
    assert run(photos, tiny_bundle, tmp_path / "out", options).exit_code == 0
    assert len(keys_of("clean/")) == 11
