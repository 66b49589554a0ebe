"""One call of `run`: it plans or resumes, keeps the devices busy, and commits each part's rows after its images."""

import itertools
import shlex
import sys
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import purifyctl
from purifyctl import console
from purifyctl.config.run import RunOptions
from purifyctl.engine.bundle import Bundle
from purifyctl.errors import ConfigError
from purifyctl.interrupt import drain_on_interrupt
from purifyctl.machine import machine
from purifyctl.run.listed import say_listed
from purifyctl.run.messages import Setup
from purifyctl.run.open_parts import OpenParts
from purifyctl.run.parent.devices import process_all
from purifyctl.run.parent.selection import open_devices
from purifyctl.run.parent.worker_process import COMMAND
from purifyctl.run.plan import Plan
from purifyctl.run.prepare import prepare
from purifyctl.run.progress import Progress
from purifyctl.run.rows import NOT_FAILED, write_text
from purifyctl.run.run_folder import RunFolder
from purifyctl.run.summary import summarise
from purifyctl.sources import Source, open_source
from purifyctl.sources.choice import skipped
from purifyctl.sources.store import RemoteFolder
from purifyctl.sources.urls import without_secrets
from purifyctl.waiting import progress, working

WHOLE_BATCH = 4  # whole pictures that travel together: few, because a large one takes seconds


@dataclass(frozen=True)
class RunResult:
    summary: dict[str, Any]
    exit_code: int  # 0 ok, 3 some inputs failed, 1 stopped by max_errors, 130 interrupted


def run(
    source: Path | str,
    bundle: Bundle,
    out: Path,
    options: RunOptions | None = None,
    *,
    worker: tuple[str, ...] = COMMAND,
) -> RunResult:
    """Purify and classify every file under `source`; write images, rows and a summary into `out`.

    out/images/...           purified images, in the tree of the source
    out/rows/part-*.parquet  one row per input, one file per part of the plan
    out/plan.parquet         what the run will do
    out/run.json             the settings of the run; it marks the folder as a run's
    out/summary.json         what this function returns

    A call with the same source, engine and options continues where an earlier call stopped.

    Parameters
    ----------
    source
        A folder or a file; a text may also be a URL. Its user, password and query are not written anywhere.

    Raises
    ------
    ConfigError
        The source holds nothing, is the output, or cannot be listed; or `out` holds an earlier run with other settings.
    MissingDependencyError
        The source is a URL, and the package for its protocol is not installed.
    OutputError
        The disk is full. Finished work is kept.
    """
    options = options or RunOptions()
    started = time.monotonic()
    opened = open_source(source, skip_folder=out)
    prepared = prepare(opened, bundle, out, options)
    options = prepared.options
    with RunFolder(opened.on_this_machine, out, options.shard) as folder:
        with working("listing the source"):
            plan, listed = folder.begin_or_resume(
                prepared.settings, options.on_existing, prepared.make_plan, grows=options.limit is None
            )
        left_out = prepared.left_out.facts() if listed else plan.about().get("left_out", {})
        say_listed(listed, left_out, options.image_format)
        mine = range(options.shard[0], plan.parts, options.shard[1])
        setup = Setup(
            bundle=bundle,
            networks=prepared.networks,
            threshold=prepared.threshold,
            out=out.absolute(),  # other machines are in other folders
            partial=folder.partial,
            verbose=console.is_verbose(),
            source=source,
            options=options,
        )
        done = _process(setup, plan, folder, mine, worker)
        grown = folder.has_grown(plan)
        if grown:  # another shard has listed the source
            console.warn("The source has grown meanwhile: give the same command again for this call's share of that.")
        files = [file for number in mine if (file := folder.part_file(number))]
        summary = {
            "inputs": sum(map(plan.size, mine)),
            "finished": all(map(folder.is_committed, mine)) and not done.left and not grown,
            "skipped": skipped(left_out),
            "left_out": left_out,
            **summarise(files),
            **({"truth": plan.truth} if plan.truth else {}),
            "this_call": {
                **done.facts(started),
                **(listed.facts() if listed else {}),
                "command": _command(source, opened),
                "bundle": str(bundle.path),
                "bundle_sha256": bundle.sha256,
            },
            **prepared.settings,
            "share": "{}/{}".format(*options.shard),
            "purifyctl": purifyctl.__version__,
            "machine": machine(),
        }
        if done.rows or not folder.has_final_summary():
            folder.write_summary(summary)
        for asked, ending in ((options.csv, ".csv"), (options.jsonl, ".jsonl")):
            if asked:
                write_text(files, folder.text_file(ending))
    if done.too_many:
        console.error(f"Stopped: {done.errors} inputs failed, and --max-errors allows {options.max_errors}.")
        return RunResult(summary, 1)
    if not summary["finished"]:
        return RunResult(summary, 130)
    return RunResult(summary, 0 if set(summary["statuses"]) <= NOT_FAILED else 3)


def _process(setup: Setup, plan: Plan, folder: RunFolder, mine: range, worker: tuple[str, ...]) -> Progress:
    """Work on parts. If a part is not finished, for whatever reason, its rows are kept for the next call."""
    options = setup.options
    parts = OpenParts(
        plan,
        folder,
        WHOLE_BATCH if options.whole else setup.bundle.manifest.batch_size,
        archives=options.packed,
        retry_failed=options.retry_failed,
    )
    left = {number: parts.left(number) for number in mine}
    todo = [number for number in mine if left[number] or not folder.is_committed(number)]
    done = Progress(left=sum(left.values()), max_errors=options.max_errors)
    folder.clean(mine)
    if not todo:
        return done
    if options.images_to:
        _mark(RemoteFolder(options.images_to), folder.marker)
    with ExitStack() as stack:
        devices = stack.enter_context(open_devices(setup, plan, folder.marker, worker))
        bar = stack.enter_context(progress(done.left, "purifying", waits=True))
        interrupted = stack.enter_context(drain_on_interrupt("finishing the batches under way."))
        stack.callback(parts.keep)
        batches = itertools.takewhile(lambda _: not interrupted.is_set() and not done.too_many, parts.batches(todo))
        stream = stack.enter_context(closing(process_all(devices, batches)))
        bar.show("starting the engine")
        for batch, rows in stream:
            if bar.is_beginning and any(device.ready_at is not None for device in devices):
                bar.begin()
            under_way = sum(device.under_way for device in devices)
            if batch is None:
                bar.show("starting the engine" if bar.is_beginning else "", under_way=under_way)
                continue
            parts.add(batch, rows)
            failed = done.add(rows)
            bar.advance(len(rows), errors=failed, under_way=under_way)
        done.end(devices)
    return done


def _mark(store: RemoteFolder, settings: Path) -> None:
    """Write into a store what will make its images, before they are made. Raises ConfigError if that fails."""
    try:
        store.write(PurePosixPath(settings.name), settings.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{store.url} cannot be written to: {error}.", hint="check --images-to, and your credentials for it"
        ) from None


def _command(source: Path | str, opened: Source) -> str:
    """What was typed, without the secrets in URLs."""
    shown = str(source) if opened.on_this_machine else opened.name
    return shlex.join(shown if word == str(source) else without_secrets(word) for word in sys.argv)
