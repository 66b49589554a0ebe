"""The settings of an evaluation. They mark its folder, and decide whether a later call may continue it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from purifyctl.config.folders import EVALUATION, EVALUATION_RECORDS
from purifyctl.errors import ConfigError
from purifyctl.files import write_json
from purifyctl.settings import check_same


def begin_or_resume(out: Path, settings: Mapping[str, Any]) -> None:
    """Make the folder of a new evaluation, or check that an earlier one has the same settings.

    Raises
    ------
    ConfigError
        The folder holds an evaluation with other settings (the message names them), or something else.
    """
    file = out / EVALUATION
    if not file.exists():
        if (out / EVALUATION_RECORDS).exists():
            raise ConfigError(
                f"{out / EVALUATION_RECORDS} exists, and no evaluation made it.", hint="choose another --out"
            )
        try:
            out.mkdir(parents=True, exist_ok=True)
            write_json(file, settings)
        except OSError as error:
            raise ConfigError(f"{out} cannot be written to: {error.strerror}.", hint="check --out") from None
        return
    check_same(
        file,
        settings,
        what="an evaluation with other settings",
        hint="choose another --out, or use the earlier settings",
    )
