"""The documentation: it builds, no link in it is dead, and the reference leaves nothing out."""

import itertools
import json
import re
import subprocess
import sys
from dataclasses import fields
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from markdown_it import MarkdownIt
from typer.main import get_command

from docs import reference
from purifyctl import attacking, config
from purifyctl import run as pipeline
from purifyctl.attacking import AttackOptions
from purifyctl.cli import app
from purifyctl.engine import bundle
from purifyctl.engine.bundle import Bundle
from purifyctl.evaluation.records import Outcome
from purifyctl.run.rows import Row
from tests import tiny
from tests.commands import purifyctl

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "SECURITY.md", "train/README.md", "engines/README.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    *(ROOT / name for name in ("purifyctl/data/purifier.md", "purifyctl/data/gate.md", "THIRD_PARTY_NOTICES.md")),
]
COMMANDS = get_command(app).commands


def check_external(link: str, where: Path) -> None:
    """Check only the form of a link to another site: tests do not go there."""
    parts = urlsplit(link)
    assert parts.scheme == "https", f"{where}: {link}"
    assert re.fullmatch(r"[a-z0-9-]+(\.[a-z0-9-]+)+", parts.netloc), f"{where}: {link}"


# --- the pages on a code host


def slug(heading: str) -> str:
    """The anchor that code hosts give a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    tokens = MarkdownIt().parse(page.read_text())
    after = itertools.pairwise(tokens)
    texts = ["".join(t.content for t in inline.children) for head, inline in after if head.type == "heading_open"]
    return {slug(text) for text in texts}


def links(page: Path) -> list[str]:
    inline = [token for token in MarkdownIt().enable("table").parse(page.read_text()) if token.type == "inline"]
    parts = [part for token in inline for part in token.children or ()]
    return [str(part.attrs.get("href") or part.attrs["src"]) for part in parts if part.type in ("link_open", "image")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_of_a_page_leads_somewhere_as_it_is_read_on_a_code_host(page: Path) -> None:
    for link in links(page):
        if urlsplit(link).scheme:
            check_external(link, page)
            continue
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page}: {link}"
        assert target.is_relative_to(ROOT), f"{page}: {link}"
        assert not anchor or anchor in anchors(target), f"{page}: {link}"


def test_every_promise_of_the_threat_model_names_a_test_that_exists() -> None:
    rows = [line for line in (ROOT / "docs" / "threat-model.md").read_text().splitlines() if ".py::test_" in line]
    assert len(rows) > 10
    for row in rows:
        file, _, name = row.rstrip("| `").rpartition("`")[2].partition("::")
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), row


def test_a_dead_link_would_be_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One `two`, three\n\n| a |\n|---|\n| [x](#one-two-three) |\n\n![p](no.png)\n")
    assert links(page) == ["#one-two-three", "no.png"]
    assert anchors(page) == {"one-two-three"}
    with pytest.raises(AssertionError):
        check_external("http://example.org", page)


# --- as a site


class Found(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, _tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value and not value.startswith("data:"):
                self.links.append(value)
            if name == "id" and value:
                self.ids.add(value)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built with warnings as errors."""
    out = tmp_path_factory.mktemp("site")
    words = ["--fail-on-warning", "--keep-going", "--quiet", "-c", "docs", "-d", str(out / ".doctrees"), ".", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "sphinx", *words], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.slow
def test_the_site_has_every_page_and_no_dead_link(site: Path) -> None:
    made = {file: Found(file.read_text()) for file in site.rglob("*.html")}
    assert {page.relative_to(ROOT).with_suffix(".html") for page in PAGES} <= {f.relative_to(site) for f in made}
    checked = 0
    for file, found in made.items():
        for link in found.links:
            if urlsplit(link).scheme:
                check_external(link, file)
                continue
            path, _, anchor = unquote(link).partition("#")
            target = (file.parent / path.partition("?")[0]).resolve() if path else file
            assert target.is_file(), f"{file}: {link}"
            assert not anchor or target not in made or anchor in made[target].ids, f"{file}: {link}"
            checked += 1
    assert checked > 500


@pytest.mark.slow
def test_every_page_can_be_reached_from_the_first_one(site: Path) -> None:
    reached, new = set(), {site / "index.html"}
    while new:
        reached |= new
        found = {
            (file.parent / unquote(link.partition("#")[0])).resolve()
            for file in new
            for link in Found(file.read_text()).links
        }
        new = {file for file in found if file.suffix == ".html" and file.is_file()} - reached
    assert {(site / page.relative_to(ROOT)).with_suffix(".html") for page in PAGES} <= reached


# --- the reference


def section(title: str) -> str:
    """What stands under a heading of the reference, to the next one of its level or above."""
    level = len(title) - len(title.lstrip("#"))
    found = re.search(rf"^{re.escape(title)}\n(.*?)(?=^#{{1,{level}}} |\Z)", reference.PAGE.read_text(), re.M | re.S)
    assert found, title
    return found[1]


def test_the_reference_is_what_the_code_says_now() -> None:
    assert reference.PAGE.read_text() == reference.page(), "make docs"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_in_the_reference(name: str) -> None:
    text, common = section(f"### purifyctl {name}"), section("## Commands").partition("### ")[0]
    for parameter in COMMANDS[name].params:
        for option in parameter.opts if parameter.param_type_name == "option" else ():
            assert re.search(rf"[`, ]{option}[`, ]", text if option not in common else common), option
    assert len(COMMANDS[name].params) >= 3


SETTINGS = (
    config.TrainConfig,
    config.NetworkConfig,
    config.ClassifierConfig,
    config.ObjectiveConfig,
    config.TrainingAttack,
    config.Phase,
    config.GateConfig,
    config.EngineConfig,
)


@pytest.mark.parametrize(
    "kind", [Row, attacking.batch.Row, Outcome, bundle.Manifest, *SETTINGS], ids=lambda k: k.__name__
)
def test_every_column_and_recipe_key_has_its_meaning_in_the_reference(kind: type) -> None:
    said, page = reference.comments(kind), reference.PAGE.read_text()
    for field in fields(kind):
        assert said[field.name], f"{kind.__name__}.{field.name} has no comment beside it"
        assert f"| `{field.name}` |" in page


def documented(title: str) -> set[str]:
    """Every word in backticks under a heading."""
    return set(re.findall(r"`([^`]+)`", section(title)))


@pytest.mark.slow
def test_every_column_and_summary_key_that_a_run_writes_is_in_the_reference(
    photos: Path, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    options = pipeline.RunOptions(compare=True, csv=True)
    summary = pipeline.run(photos, tiny_bundle, tmp_path / "out", options).summary
    gated = pipeline.run(photos, tiny_bundle, tmp_path / "gated", pipeline.RunOptions(gated=True)).summary
    header = (tmp_path / "out" / "rows.csv").read_text().splitlines()[0].split(",")
    assert set(header) <= documented("### Rows of run")
    assert set(summary["statuses"]) <= documented("### Rows of run")
    known = documented("### Other files of run")
    merged = pipeline.merge([tmp_path / "out"])
    nested = [*summary["this_call"], *summary["accuracy"], *summary["stage_ms"], *summary["machine"], *gated["gate"]]
    nested += [*gated["stage_ms"], *gated["handled"]]
    assert {*summary, *gated, *merged, *nested} <= known
    visible = {file.name for file in (tmp_path / "out").iterdir() if not file.name.startswith(".")}
    assert visible <= {name.strip("/").partition("/")[0] for name in known} | {"rows.csv"}


def test_every_key_that_attack_and_evaluate_write_is_in_the_reference(photos: Path, tmp_path: Path) -> None:
    options = AttackOptions(classifier="tests.tiny:animals", target="cats", image_size=tiny.SIZE)
    manifest = attacking.attack_folder(photos, tmp_path / "attacked", options).manifest
    known = documented("### Files of attack")
    assert set(manifest) <= known
    assert set(json.loads((tmp_path / "attacked" / "rows.jsonl").read_text().splitlines()[0])) <= known


@pytest.mark.slow
def test_every_key_of_an_evaluation_is_in_the_reference(photos: Path, tmp_path: Path) -> None:
    words = [
        "evaluate",
        "--photos",
        photos,
        "--out",
        tmp_path / "out",
        "--checkpoint",
        tiny.checkpoint(tmp_path / "run"),
    ]
    words += ["--classifier", "tests.tiny:animals", "--limit", 4, "--image-size", 64, "--rungs", "gray-box", "--json"]
    words += ["--attack", "fgsm", "--eps", "8/255", "--paper", "--gate", "shipped"]
    done = purifyctl(*words)
    assert done.returncode == 0, done.stderr
    document, known = json.loads(done.stdout), documented("### Files of evaluate")
    assert {*document, *document["settings"]["gate"]} <= known
    shares = re.compile(r"_(interval|hits|n)$")  # the reference explains these endings once, for all of them
    for key in {key for cell in document["cells"] for key in cell}:
        assert key in known or shares.sub("", key) in known, key
    text = section("### Files of evaluate").replace("`.csv`", "`OUT/evaluation.csv`")
    for file in (tmp_path / "out").iterdir():
        assert f"`OUT/{file.name}" in text or file.suffix == ".png"


def test_every_environment_variable_of_ours_is_in_the_reference() -> None:
    said = documented("## Environment variables")
    source = "\n".join(file.read_text() for file in (ROOT / "purifyctl").rglob("*.py"))
    ours = set(re.findall(r"\bPURIFYCTL_[A-Z]+\b", source))
    assert len(ours) >= 2
    assert ours <= said


def test_each_decision_has_a_number_of_its_own_that_its_title_says() -> None:
    pages = sorted((ROOT / "docs" / "adr").glob("0*.md"))
    numbers = [int(page.name[:4]) for page in pages]
    assert numbers == list(range(1, len(pages) + 1))
    for page, number in zip(pages, numbers, strict=True):
        assert page.read_text().startswith(f"# {number}. "), page.name
