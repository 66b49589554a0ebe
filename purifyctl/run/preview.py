"""`run --dry-run`: what a run would do."""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from purifyctl.config.run import PLAN, RunOptions
from purifyctl.engine.bundle import Bundle
from purifyctl.images.sink import check_apart, printable
from purifyctl.run.listed import say_listed
from purifyctl.run.plan import Input, Plan
from purifyctl.run.prepare import prepare
from purifyctl.run.run_folder import check_same, parts_of
from purifyctl.sources import open_source
from purifyctl.sources.choice import skipped

SHOWN = 5  # inputs that a dry run names


def dry_run(source: Path | str, bundle: Bundle, out: Path, options: RunOptions) -> dict[str, Any]:
    """Say what `run` would do, without doing or writing anything.

    Raises
    ------
    ConfigError
        As `run` would.
    """
    opened = open_source(source, skip_folder=out)
    prepared = prepare(opened, bundle, out, options)
    check_apart(opened.on_this_machine, out)
    resumes = options.on_existing == "resume" and (out / PLAN).is_file()
    if resumes:
        check_same(out, prepared.settings)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / PLAN
        earlier = Plan(out / PLAN) if resumes else None
        for each in earlier.files if earlier else ():
            shutil.copy(each, folder)
        listed = None
        if earlier is None or options.limit is None:
            addition = file.with_name(earlier.extension.name) if earlier else file
            listed = prepared.make_plan(addition, earlier)
        plan = Plan(file)
        index, of = options.shard
        mine = range(index, plan.parts, of)
        first = plan.part(index).inputs[:SHOWN] if mine else ()
        left_out = prepared.left_out.facts() if listed else plan.about().get("left_out", {})
        say_listed(listed, left_out, options.image_format)
        return {
            "inputs": sum(map(plan.size, mine)),
            "added": listed.added if listed and earlier else 0,
            "skipped": skipped(left_out),
            "shards": len(mine),
            "finished_shards": len(set(parts_of(out)) & set(mine)) if resumes else 0,
            "first": {
                printable(one.image.path): printable(one.output) if options.image_format else None for one in first
            },
            **({"first_unflagged": _passed_on(first, options)} if options.gate is not None else {}),
        }


def _passed_on(inputs: Sequence[Input], options: RunOptions) -> dict[str, str | None]:
    """Where the files of these inputs go if the gate does not flag them; None: nowhere."""
    written = options.image_format is not None and options.unflagged != "leave"
    return {printable(one.image.path): printable(one.passed_on) if written else None for one in inputs}
