"""Bundles, and ways to damage a copy of one."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from purifyctl.config import EngineConfig
from purifyctl.engine.build import build_engine
from purifyctl.engine.bundle import Bundle
from tests import tiny

Damage = Callable[[Path], object]


def flip(name: str, where: float) -> Damage:
    """Turn one bit, at this share of the file."""

    def damage(bundle: Path) -> None:
        data = bytearray((bundle / name).read_bytes())
        data[int(where * (len(data) - 1))] ^= 1
        (bundle / name).write_bytes(data)

    return damage


def cut(name: str, left: float) -> Damage:
    def damage(bundle: Path) -> None:
        data = (bundle / name).read_bytes()
        (bundle / name).write_bytes(data[: int(left * (len(data) - 1))])

    return damage


def write(name: str, data: bytes) -> Damage:
    def damage(bundle: Path) -> None:
        (bundle / name).parent.mkdir(exist_ok=True)
        (bundle / name).write_bytes(data)

    return damage


def edit(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Change the manifest as a program would."""

    def damage(bundle: Path) -> None:
        data = json.loads((bundle / "manifest.json").read_text())
        change(data)
        (bundle / "manifest.json").write_text(json.dumps(data, indent=1) + "\n")

    return damage


def changed(bundle: Bundle, folder: Path, damage: Damage) -> Path:
    """A damaged copy of a bundle."""
    shutil.copytree(bundle.path, folder)
    damage(folder)
    return folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle with every network. Read only."""
    folder = tmp_path_factory.mktemp("whole")
    config = EngineConfig(
        backend=tiny.BACKEND,  # type: ignore[arg-type]
        image_size=tiny.SIZE,
        batch_size=2,
        classifier="tests.tiny:classifier",
        fused=True,
    )
    return build_engine(config, tiny.checkpoint(folder / "run"), folder / "bundle")
