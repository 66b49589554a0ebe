"""The settings of a command, as JSON in its folder. A later call may resume the work if its settings are the same."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from purifyctl.errors import ConfigError
from purifyctl.strict_json import read_json


def read_settings(file: Path) -> dict[str, Any]:
    """Raises ConfigError when the file cannot be read."""
    try:
        settings = read_json(file)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}.", hint="choose another --out") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{file} holds no settings.", hint="choose another --out")
    return settings


def check_same(file: Path, asked: Mapping[str, Any], *, what: str, hint: str) -> None:
    """Raises ConfigError when the folder was asked for something else: `what`, and the differences."""
    if changed := list(differences(read_settings(file), json.loads(json.dumps(asked)))):  # compared as JSON returns it
        raise ConfigError(f"{file.parent} holds {what}: {'; '.join(changed)}.", hint=hint)


def differences(earlier: Any, asked: Any, where: str = "") -> Iterator[str]:
    """Each setting that differs between two values of plain data, such as `seed was 0, is 1`."""
    if isinstance(earlier, dict) and isinstance(asked, dict):
        for key in dict.fromkeys([*earlier, *asked]):
            yield from differences(earlier.get(key), asked.get(key), f"{where}.{key}" if where else key)
    elif isinstance(earlier, list) and isinstance(asked, list):
        gone, new = (
            [value for value in one if value not in other] for one, other in ((earlier, asked), (asked, earlier))
        )
        if gone or new or earlier != asked:
            sides = (f"without {_short(gone)}" if gone else "", f"with {_short(new)} new" if new else "")
            yield f"{where} is now {' and '.join(filter(None, sides)) or 'in another order'}"
    elif earlier != asked:
        yield f"{where} was {_short(earlier)}, is {_short(asked)}"


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
