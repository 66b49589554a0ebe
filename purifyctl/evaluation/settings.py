"""What an evaluation was asked for: it marks the folder, and decides whether a later call may go on with it."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from purifyctl.errors import ConfigError
from purifyctl.images.sink import write_atomically

SETTINGS, RECORDS = "settings.json", "records"


def begin_or_resume(out: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder of a new evaluation, or see that an earlier one was asked for the same.

    Raises
    ------
    ConfigError
        The folder holds an evaluation with other settings (the message names them), or something else.
    """
    file = out / SETTINGS
    asked = json.loads(json.dumps(settings))  # as it reads back
    if not file.exists():
        if (out / RECORDS).exists():
            raise ConfigError(f"{out / RECORDS} exists, and no evaluation made it.", hint="choose another --out")
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_atomically(file, (json.dumps(asked, indent=2) + "\n").encode())
        except OSError as error:
            raise ConfigError(f"{out} cannot be written to: {error.strerror}.", hint="check --out") from None
        return
    try:
        earlier = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read: {error}.", hint="choose another --out") from None
    if differences := list(_differences(earlier, asked)):
        raise ConfigError(
            f"{out} holds an evaluation with other settings: {'; '.join(differences)}.",
            hint="choose another --out, or ask for the same as then",
        )


def _differences(earlier: Any, asked: Any, where: str = "") -> Iterator[str]:
    """Each setting that differs, as `seed was 0, is 1`."""
    if isinstance(earlier, dict) and isinstance(asked, dict):
        for key in dict.fromkeys([*earlier, *asked]):
            yield from _differences(earlier.get(key), asked.get(key), f"{where}.{key}" if where else key)
    elif isinstance(earlier, list) and isinstance(asked, list):
        gone, new = ([item for item in one if item not in other] for one, other in ((earlier, asked), (asked, earlier)))
        if gone or new or earlier != asked:
            sides = (f"without {_short(gone)}" if gone else "", f"with {_short(new)} new" if new else "")
            yield f"{where} is now {' and '.join(filter(None, sides)) or 'in another order'}"
    elif earlier != asked:
        yield f"{where} was {_short(earlier)}, is {_short(asked)}"


def _short(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
