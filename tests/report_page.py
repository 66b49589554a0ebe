"""What tests of reports share: a page as a browser reads it, and a run whose names try to become part of it."""

from html.parser import HTMLParser
from pathlib import Path

from purifyctl.classifiers import Classifier
from purifyctl.config import EngineConfig
from purifyctl.engine.build import build_engine
from purifyctl.engine.bundle import Bundle
from purifyctl.labels import Labels
from purifyctl.report.run import write_report
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
    """Ten classes. Most have names that a page must not mistake for its own markup."""
    names = ("cats", "dogs", *HOSTILE, "eight", "nine")
    return Classifier(tiny.classifier(), name="animals", labels=Labels(names), mean=(0.5,) * 3, std=(0.5,) * 3)


def build(folder: Path) -> Bundle:
    """A tiny bundle with the classes of `hostile`."""
    config = EngineConfig(image_size=tiny.SIZE, batch_size=4, classifier="tests.report_page:hostile")
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
