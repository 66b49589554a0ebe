"""Web servers that would be listed forever: each listing has an end, and says why it ended."""

import time
from pathlib import Path

import pytest

from purifyctl.errors import ConfigError
from purifyctl.sources import bounds, open_source, web
from purifyctl.sources.web import _children
from tests.web_server import Server, serving

pytest.importorskip("aiohttp")


def listed(url: str) -> dict[bytes, str]:
    return {found.path: found.problem for found in open_source(url).inputs()}


def test_folders_that_lead_in_a_circle_are_a_row_and_what_lies_beside_them_is_listed_once(
    photos: Path, server: Server
) -> None:
    (photos / "cats" / "up").symlink_to(photos / "cats")
    found = listed(server.url)
    circle = {path: why for path, why in found.items() if why}
    assert list(circle) == [b"cats/up/"]
    assert "in a circle" in circle[b"cats/up/"]
    assert set(found) - set(circle) == {f"{f.parent.name}/{f.name}".encode() for f in photos.glob("*/*.jpg")}


def test_a_longer_circle_ends_where_it_comes_to_known_files(photos: Path, server: Server) -> None:
    (photos / "cats" / "up").symlink_to(photos)
    found = listed(server.url)
    assert [path for path, why in found.items() if why] == [b"cats/up/cats/"]
    assert len(found) == len(list(photos.glob("*/*.jpg"))) + len(list(photos.glob("dogs/*.jpg"))) + 1


def test_a_circle_without_any_file_is_found_too(photos: Path, server: Server) -> None:
    (photos / "loop").mkdir()
    (photos / "loop" / "loop").symlink_to(photos / "loop")
    (why,) = [why for path, why in listed(f"{server.url}/loop").items()]
    assert "in a circle" in why
    assert len([path for path in server.asked if "loop" in path]) < 10


def test_folders_within_each_other_have_a_last_level(
    photos: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "DEPTH", 5)
    (photos / "1" / "2" / "3" / "4" / "5" / "6").mkdir(parents=True)
    (photos / "1" / "2" / "3" / "4" / "5" / "last.jpg").touch()
    found = listed(server.url)
    assert found[b"1/2/3/4/5/last.jpg"] == ""
    assert "more than 5 folders deep" in found[b"1/2/3/4/5/6/"]


@pytest.mark.parametrize(
    ("limit", "value", "why"), [("PAGES", 2, "2 folders"), ("BYTES", 200, "200 bytes"), ("SECONDS", 0.1, "0 seconds")]
)
def test_a_listing_that_takes_too_much_is_no_plan(
    limit: str, value: float, why: str, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, limit, value)
    server.latency = 0.06
    with pytest.raises(ConfigError, match=f"more than {why}.*") as caught:
        listed(server.url)
    assert "--files-from" in caught.value.hint


def test_a_page_that_never_ends_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "PAGE_S", 0.2)
    server.latency = 1.0
    began = time.monotonic()
    with pytest.raises(Exception, match="no answer in time"):
        listed(server.url)
    assert time.monotonic() - began < 10


def test_too_large_a_page_and_too_many_names_are_rows(
    photos: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    (photos / "dogs" / "index.html").write_text("<a href='1.jpg'>" * 1000)
    monkeypatch.setattr(web, "INDEX_BYTES", 10_000)
    assert "more than 10,000 bytes" in listed(server.url)[b"dogs/"]
    monkeypatch.setattr(web, "INDEX_BYTES", 100_000)
    monkeypatch.setattr(web, "INDEX_LINKS", 3)
    assert "more than 3 names" in listed(server.url)[b"cats/"]


def test_another_port_is_another_server_and_is_named(
    photos: Path, server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "cats" / "index.html").write_text(
        f"<a href='http://127.0.0.1:9/cats/1.jpg'>1</a> <a href='{server.url}/cats/3.jpg'>3</a>"
    )
    assert set(listed(f"{server.url}/cats")) == {b"3.jpg"}
    assert "127.0.0.1:9" in capsys.readouterr().err
    with serving(photos) as other:
        server.faults = {"/dogs/": [f"{other.url}/dogs/"]}
        assert f"another one, 127.0.0.1:{other.server_port}" in listed(server.url)[b"dogs/"]
        assert not [path for path in other.asked if path != "/dogs/"]


def test_a_page_that_would_make_a_pattern_try_everything_takes_no_longer_than_another() -> None:
    began = time.process_time()
    for page in (b"<a " * 300_000, b"<a href " * 100_000, b"<a href='" * 100_000 + b'"', b"<a " + b"href = " * 100_000):
        _children(page, "http://host/")
    assert time.process_time() - began < 5


def test_a_name_longer_than_any_file_system_has_is_a_row(photos: Path, server: Server) -> None:
    (photos / "cats" / "index.html").write_text(f"<a href='{'n' * 10_000}.jpg'>")
    ((path, why),) = listed(f"{server.url}/cats").items()
    assert "10,004 bytes" in why
    assert len(path) < 300
