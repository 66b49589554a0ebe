"""THIRD_PARTY_NOTICES.md and CITATION.cff say what is so."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import yaml
from packaging.requirements import Requirement

from purifyctl import __version__

ROOT = Path(__file__).parents[1]
NOTICES = (ROOT / "THIRD_PARTY_NOTICES.md").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PROPRIETARY = re.compile(r"propriet|NVIDIA SOFTWARE", re.IGNORECASE)


def licence(package: str) -> str | None:
    """What the installed package says of itself; None where it is not installed."""
    try:
        about = metadata.metadata(package)
    except metadata.PackageNotFoundError:
        return None
    names = [c.rpartition(" :: ")[2] for c in about.get_all("Classifier") or () if c.startswith("License :: ")]
    text = (about["License"] or "").strip()
    return about["License-Expression"] or ", ".join(names) or (text.splitlines() or ["UNKNOWN"])[0]


def dependencies() -> dict[str, str]:
    """Every package that pyproject.toml names, except those for developers, and the extra that asks for it first."""
    asked = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
    found: dict[str, str] = {}
    for extra, requirements in asked.items():
        for text in requirements if extra != "dev" else ():
            found.setdefault(Requirement(text).name, extra)
    return found


def test_every_dependency_is_listed_once_with_the_licence_that_it_gives_itself() -> None:
    rows = re.findall(r"^\| ([a-z][\w-]+) \| ([^|]*) \| ([^|]*) \|$", NOTICES, re.M)
    listed = {name: (extra, said) for name, extra, said in rows}
    assert len(listed) == len(rows)
    assert {name: extra for name, (extra, _) in listed.items()} == dependencies()
    installed = {name: said for name in listed if (said := licence(name))}
    assert len(installed) >= len(listed) - 2  # tensorrt and gcsfs need not be here
    # a package that does not say is listed with what the licence file inside it says
    differ = {
        name: said for name, said in installed.items() if said not in ("UNKNOWN", listed[name][1].partition(";")[0])
    }
    assert differ == {}


def test_every_locked_package_that_is_proprietary_is_named_as_such() -> None:
    locked = set(re.findall(r"^(\S+)==", (ROOT / "requirements" / "gpu.lock").read_text(), re.M))
    proprietary = {name for name in locked if PROPRIETARY.search(licence(name) or "")}
    assert len(proprietary) > 10
    (section,) = re.findall(r"^### Proprietary$(.*?)^#", NOTICES, re.M | re.S)
    assert proprietary <= set(re.findall(r"`([\w-]+)`", section))


def test_everything_in_the_package_that_others_wrote_is_noticed() -> None:
    data = {path.name for path in (ROOT / "purifyctl" / "data").iterdir()}
    ours = {f"{network}.{kind}" for network in ("purifier", "gate") for kind in ("md", "safetensors")}
    assert data == ours | {"fitted", "imagenet_classes.tsv"}  # another file: is it ours?
    for name in ("imagenet_classes.tsv", "purifier.safetensors", "gate.safetensors"):
        assert name in NOTICES
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in NOTICES


def test_the_citation_has_what_its_format_asks_for_and_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # required by CFF 1.2.0
    assert (citation["cff-version"], citation["type"]) == ("1.2.0", "software")
    assert citation["version"] == __version__
    assert citation["license"] == PROJECT["license"]
    assert citation["title"] == PROJECT["name"]
    assert citation["authors"] == [{"name": "The purifyctl maintainers"}]
    (paper,) = citation["references"]
    assert {"type", "title", "authors"} <= set(paper)
    assert [author["family-names"] for author in paper["authors"]] == ["Zhang", "Sakurai"]
    assert (paper["type"], paper["year"], paper["volume"]) == ("article", 2021, 9)
    assert re.fullmatch(r"10\.\d{4,}/\S+", paper["doi"])
    assert paper["title"] in " ".join((ROOT / "README.md").read_text().split())


if __name__ == "__main__":
    for name, extra in dependencies().items():
        print(f"| {name} | {extra} | {licence(name)} |")
