"""Finds the recipes that come with purifyctl by name: in `train/` and `engines/` of a checkout, or inside a wheel."""

from importlib.resources import files
from pathlib import Path
from typing import Literal

from purifyctl.errors import ConfigError

Kind = Literal["train", "train-gate", "engines"]

FOLDERS: dict[Kind, str] = {"train": "train", "train-gate": "train", "engines": "engines"}
COMMANDS: dict[Kind, str] = {"train": "train", "train-gate": "train-gate", "engines": "build-engine"}
GATES = ("gate",)  # the recipes in `train/` that belong to train-gate


def built_in(kind: Kind) -> dict[str, Path]:
    """The recipes that come with purifyctl, by name: `{"shipped": .../train/shipped.toml, ...}`.

    Raises
    ------
    ConfigError
        There are no recipes: the installation is damaged.
    """
    package, name = Path(str(files("purifyctl"))), FOLDERS[kind]
    # first the wheel's own: another package may have put a folder "train" beside an installed purifyctl
    for folder in (package / "data" / name, package.parent / name):
        if recipes := {file.stem: file for file in sorted(folder.glob("*.toml"))}:
            return {stem: file for stem, file in recipes.items() if (stem in GATES) == (kind == "train-gate")}
    raise ConfigError(f"{package} lacks its {name} recipes.", hint="pip install --force-reinstall purifyctl")


def find_recipe(given: str, kind: Kind) -> Path:
    """The file of a recipe: a word without `/` and `.` names a built-in recipe, anything else is a path.

    The meaning of a word does not depend on the current folder.

    Raises
    ------
    ConfigError
        There is no such recipe.
    """
    names = built_in(kind)
    if "/" not in given and "." not in given:
        if other := next((other for other in FOLDERS if other != kind and given in built_in(other)), None):
            raise ConfigError(f"{given!r} is a recipe of purifyctl {COMMANDS[other]}.", hint="or name a file: ./FILE")
        if given not in names:
            hint = f"there are {', '.join(names)}; a file of your own: ./{given}"
            raise ConfigError(f"There is no built-in recipe {given!r}.", hint=hint)
        return names[given]
    if not (file := Path(given)).exists():
        raise ConfigError(f"There is no recipe {given}.", hint=f"built-in ones go by name: {', '.join(names)}")
    return file
