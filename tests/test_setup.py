"""What a newcomer's first two commands rest on."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))


@pytest.mark.parametrize("lock", LOCKS, ids=lambda p: p.name)
def test_every_locked_package_has_hashes_and_no_address(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    entries = re.split(r"\n(?=\S)", text.strip())
    assert len(entries) > 50
    for entry in entries:
        assert re.match(r"[a-z0-9._-]+==", entry), entry
        assert "--hash=sha256:" in entry, entry


def test_all_lock_files_share_their_versions() -> None:
    locked = {lock.stem: dict(re.findall(r"^(\S+)==(\S+)", lock.read_text(), re.M)) for lock in LOCKS}
    assert set(locked) == {"demo", "dev", "gpu", "tensorrt"}
    for versions in locked.values():
        assert {name: versions[name] for name in locked["demo"]} == locked["demo"]
    assert {name: locked["dev"][name] for name in locked["gpu"]} == locked["gpu"]  # what is tested is what is installed
    assert "tensorrt-cu13" in locked["tensorrt"]


def test_the_extras_that_users_are_asked_to_install_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert {"demo", "tensorrt", "gpu", "attacks", "ray", "cloud", "track", "docs", "dev"} <= set(extras)
    for file in (ROOT / "purifyctl").rglob("*.py"):
        for name in re.findall(r"purifyctl\[(\w+)\]", file.read_text()):
            assert name in extras, file


def test_make_help_lists_the_two_commands() -> None:
    text = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.search(r"make demo +\S", text)
    assert re.search(r"make test +\S", text)
