"""What the shell offers after TAB where typer cannot know it. It must answer at once, so it imports nothing heavy."""

import glob
from pathlib import Path

from purifyctl.config.recipes import built_in


def training_recipes(incomplete: str) -> list[str]:
    """Built-in recipes that begin with what was typed. None match a path; then the shell offers files."""
    return [name for name in built_in("train") if name.startswith(incomplete)]


def gate_recipes(incomplete: str) -> list[str]:
    """The same for recipes of gates."""
    return [name for name in built_in("train-gate") if name.startswith(incomplete)]


def engine_recipes(incomplete: str) -> list[str]:
    """The same for recipes of engines."""
    return [name for name in built_in("engines") if name.startswith(incomplete)]


def bundles(incomplete: str) -> list[str]:
    """Engine bundles in the folder that is being typed, and in `engines/`, where `build-engine` writes them."""
    typed = glob.escape(incomplete) + "*/manifest.json"
    places = (typed, "engines/*/manifest.json") if "engines/".startswith(incomplete) else (typed,)
    found = (Path(file).parent for place in places for file in glob.iglob(place))  # noqa: PTH207 (keeps ~ and ..)
    return sorted({str(folder) for folder in found if (folder / "purifier.onnx").is_file()})
