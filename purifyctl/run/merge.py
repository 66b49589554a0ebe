"""One summary of a run that several calls have done, in one folder or in several."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import purifyctl
from purifyctl.config.run import PLAN
from purifyctl.errors import ConfigError
from purifyctl.files import write_json
from purifyctl.run.plan import Plan
from purifyctl.run.run_folder import SUMMARY, parts_of, read_settings
from purifyctl.run.summary import summarise
from purifyctl.settings import differences
from purifyctl.sources.choice import skipped


def merge(folders: Sequence[Path]) -> dict[str, Any]:
    """Summarise all parts of one run; write it into the first folder.

    Raises
    ------
    ConfigError
        A folder holds no run, or another run than the first folder does, or a part that another folder holds too.
    """
    first, *others = folders
    settings, plan = read_settings(first), Plan(first / PLAN)
    parts = parts_of(first)
    for other in others:
        if changed := list(differences(settings, read_settings(other))):
            raise ConfigError(
                f"{other} holds another run than {first}: {'; '.join(changed)}.", hint="name the folders of one run"
            )
        if not plan.is_same(Plan(other / PLAN)):
            raise ConfigError(
                f"{other} and {first} do not have the same plan: the source changed in between.",
                hint="run both anew, or let all calls share one --out",
            )
        theirs = parts_of(other)
        if twice := sorted(set(parts) & set(theirs)):
            raise ConfigError(
                f"{other} holds part {twice[0]}, which {parts[twice[0]].parents[1]} holds too.",
                hint="name each folder once, and give each call its own --shard I/N",
            )
        parts |= theirs
    left_out = plan.about().get("left_out", {})
    missing = [number for number in range(plan.parts) if number not in parts]
    summary = {
        "inputs": plan.inputs,
        "finished": not missing,
        "missing_shards": missing,
        "skipped": skipped(left_out),
        "left_out": left_out,
        **summarise(part for _, part in sorted(parts.items())),
        **settings,
        "folders": [str(folder.absolute()) for folder in folders],
        "purifyctl": purifyctl.__version__,
    }
    write_json(first / SUMMARY, summary)
    return summary
