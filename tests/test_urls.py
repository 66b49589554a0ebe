"""URLs that name sources: their secrets, and those that are refused."""

import subprocess
import sys
from pathlib import Path

import pytest

from purifyctl.engine.bundle import Bundle
from purifyctl.errors import ConfigError, MissingDependencyError
from purifyctl.run import RunOptions, dry_run, run
from purifyctl.sources import list_images, open_source
from purifyctl.sources.urls import split_url, without_secrets
from tests.remote import ROOT


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
