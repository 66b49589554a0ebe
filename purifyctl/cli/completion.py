"""What the shell offers after TAB, where typer cannot know it. Answers at every keystroke: imports nothing heavy."""

import glob
from pathlib import Path

from purifyctl.config.recipes import built_in


def training_recipes(incomplete: str) -> list[str]:
    """Built-in recipes that begin so. Nothing, where a path is being typed: then the shell offers files."""
    return [name for name in built_in("train") if name.startswith(incomplete)]


def gate_recipes(incomplete: str) -> list[str]:
    """The same, of recipes for gates."""
    return [name for name in built_in("train-gate") if name.startswith(incomplete)]


def engine_recipes(incomplete: str) -> list[str]:
    """The same, of recipes for engines."""
    return [name for name in built_in("engines") if name.startswith(incomplete)]


def bundles(incomplete: str) -> list[str]:
    """Engine bundles in the folder that is being typed, and in `engines/`, where `build-engine` puts them."""
    typed = glob.escape(incomplete) + "*/manifest.json"
    places = (typed, "engines/*/manifest.json") if "engines/".startswith(incomplete) else (typed,)
    found = (Path(file).parent for place in places for file in glob.iglob(place))  # noqa: PTH207 (~ and .. stay)
    return sorted({str(folder) for folder in found if (folder / "purifier.onnx").is_file()})
