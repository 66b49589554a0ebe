"""Web servers as sources. The server runs on this machine, and fails when a test asks it to."""

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from purifyctl.engine.bundle import Bundle
from purifyctl.errors import BusyError, ConfigError, ImageError
from purifyctl.run import RunOptions, run
from purifyctl.sources import open_source
from purifyctl.sources.choice import Choice
from purifyctl.sources.web import _children
from tests import tiny
from tests.commands import purifyctl
from tests.remote import ODD, archive, at, images_of, read_all, rows_of, statuses_of
from tests.web_server import Server, serving

pytest.importorskip("aiohttp")


@pytest.mark.slow
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
    archive(photos / "part.tar", {"cats/1.jpg": hostile["photo.jpg"], "../2.jpg": b"", "cats/1.txt": b"a cat"})
    server.latency = 0.01
    here = run(photos, tiny_bundle, tmp_path / "here")
    there = run(server.url, tiny_bundle, tmp_path / "there")
    assert (here.exit_code, there.exit_code) == (3, 3)
    assert rows_of(tmp_path / "there") == rows_of(tmp_path / "here")
    assert images_of(tmp_path / "there") == images_of(tmp_path / "here")
    assert server.most_at_once > 4  # not one after another
    own = ["file", "start", "stamp"]  # a web server's pages give no stamps
    columns = [pq.read_table(tmp_path / name / "plan.parquet").drop(own) for name in ("here", "there")]
    assert columns[0] == columns[1]
    assert there.summary["source"] == server.url


@pytest.mark.slow
def test_whole_pictures_of_a_web_server_are_those_of_the_folder(
    photos: Path, server: Server, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    tiny.photograph((200, 130)).save(photos / "large.png")
    options = RunOptions(size="original")
    here, there = (
        run(source, tiny_bundle, tmp_path / name, options) for source, name in ((photos, "here"), (server.url, "there"))
    )
    assert here.exit_code == there.exit_code
    assert rows_of(tmp_path / "there") == rows_of(tmp_path / "here")
    assert images_of(tmp_path / "there") == images_of(tmp_path / "here")


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
def test_only_those_links_of_an_index_page_count_that_lead_into_its_own_folder(
    page: bytes, children: set[tuple[bytes, bool]]
) -> None:
    assert set(_children(page, "http://host/photos/cats/")[0]) == children


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


def test_only_headers_and_members_of_an_archive_are_fetched(photos: Path, server: Server) -> None:
    large = os.urandom(1 << 20)
    archive(photos / "part.tar", {f"{i}.jpg": large for i in range(8)})
    archive(photos / "cut.tar", {"1.jpg": large})
    (photos / "cut.tar").write_bytes((photos / "cut.tar").read_bytes()[: 1 << 19])
    source = open_source(server.url)
    found = list(source.inputs(Choice(["*.tar/*"])))
    assert [(f.path, bool(f.problem)) for f in found[:2]] == [(b"cut.tar/", True), (b"cut.tar/1.jpg", True)]
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


@pytest.mark.slow
def test_servers_that_fail_for_a_moment_are_asked_again_and_what_stays_unread_gets_its_row(
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


@pytest.mark.slow
def test_a_server_that_goes_away_leaves_rows_of_failures_which_are_tried_again_when_it_is_back(
    photos: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    with serving(photos) as server:
        server.requests_left = 3 + 4  # three folders, four files
        port = server.server_port
        assert run(server.url, tiny_bundle, out).exit_code == 3
        url = server.url
    assert sorted(statuses_of(out).values()) == ["ok"] * 4 + ["unreadable"] * 6
    with pytest.raises(BusyError):  # there may be new files, and there is nobody to ask
        run(url, tiny_bundle, out)
    with serving(photos, port):
        assert run(url, tiny_bundle, out, RunOptions(retry_failed=True)).exit_code == 0
    run(photos, tiny_bundle, tmp_path / "here")
    assert images_of(out) == images_of(tmp_path / "here")
    with pytest.raises(ConfigError, match="source was"):
        run(f"{url}/cats", tiny_bundle, out)


@pytest.mark.slow
def test_nobody_waits_forever_for_a_server_that_does_not_answer(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("purifyctl.sources.web.STALLED_S", 0.1)
    source = open_source(server.url)
    assert source.read(at(f"{server.url}/cats/1.jpg"), 1 << 20).tobytes()
    server.latency = 0.5
    with pytest.raises(ImageError, match="no answer in time"):
        source.read(at(f"{server.url}/cats/3.jpg"), 1 << 20)


@pytest.mark.slow
def test_a_listing_that_breaks_off_is_no_plan(
    photos: Path, server: Server, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    server.faults = {"/dogs/": [503] * 3}
    with pytest.raises(BusyError, match="cannot be listed: the server answered 503"):
        run(server.url, tiny_bundle, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    archive(photos / "part.tar", {f"{i}.jpg": os.urandom(1 << 20) for i in range(3)})
    server.requests_left = 5  # three folders, the archive's size, its first header
    with pytest.raises(BusyError, match="cannot be listed"):
        list(open_source(server.url).inputs())


def test_folders_that_may_not_be_listed_are_inputs_that_cannot_be_read(server: Server) -> None:
    server.faults = {"/dogs/": [403]}
    (dogs,) = (f for f in open_source(server.url).inputs() if f.problem)
    assert (dogs.path, "403" in dogs.problem) == (b"dogs/", True)


@pytest.mark.slow
def test_nothing_secret_in_a_url_is_written_anywhere(
    photos: Path, server: Server, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    server.user, server.query = "someone:pass/word", "sig=signature%2B&x=1"
    server.faults = {"/cats/1.jpg": [404], "/cats/3.jpg": [500] * 3}
    archive(photos / "part.tar", {"1.jpg": (photos / "cats" / "5.jpg").read_bytes()})
    there = server.url.replace("://", "://someone:pass%2Fword@") + "/?" + server.query
    out = tmp_path / "out"
    words = ["run", there, "--out", out, "--engine", tiny_bundle.path, "--json", "--csv", "--jsonl", "-v"]
    done = purifyctl(*words)
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


def test_a_server_that_is_not_there_may_be_there_later(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BusyError, match="cannot be listed") as caught:
        run("http://127.0.0.1:9/", tiny_bundle, tmp_path / "out")
    assert caught.value.exit_code == 1
    assert not (tmp_path / "out").exists()


def test_a_folder_from_which_the_server_redirects_is_a_row(server: Server, tiny_bundle: Bundle, tmp_path: Path) -> None:
    server.faults = {"/cats/": ["/dogs/"]}
    result = run(f"{server.url}/", tiny_bundle, tmp_path / "out")
    assert result.exit_code == 3
    (row,) = (row for row in rows_of(tmp_path / "out") if row["status"] != "ok")
    assert row["path"] == "cats"
    assert "redirects requests for it to /dogs/" in row["error"]
