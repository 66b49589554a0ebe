"""`run`: write the plan, or go on with it; keep the workers busy; commit each part's rows after its images."""

import hashlib
import itertools
import json
import shlex
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import purifyctl
from purifyctl import console
from purifyctl.config.options import identity
from purifyctl.config.run import ALWAYS_WRITTEN, RunOptions
from purifyctl.engine.bundle import Bundle
from purifyctl.errors import ConfigError, ImageError
from purifyctl.files import file_sha256
from purifyctl.gate import threshold_for
from purifyctl.images.sink import IMAGES, check_apart, printable
from purifyctl.interrupt import drain_on_interrupt
from purifyctl.labels import Labels, TruthFromFolder
from purifyctl.machine import machine
from purifyctl.run.messages import GateSetup, MachineSetup, Setup
from purifyctl.run.open_parts import OpenParts
from purifyctl.run.parent.devices import Device, gpus, process_all
from purifyctl.run.parent.supervisor import COMMAND, Supervisor
from purifyctl.run.plan import PLAN, Input, Plan, write_plan
from purifyctl.run.rows import write_text
from purifyctl.run.run_folder import RunFolder, check_same, parts_of
from purifyctl.run.summary import Busy, summarise
from purifyctl.sources import ImageFile, Source, open_source
from purifyctl.sources.store import RemoteFolder
from purifyctl.sources.urls import without_secrets

SHOWN = 5  # inputs that a dry run names
PROBES = 5  # inputs of which one that can be read is tried on every machine of a cluster


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
    out/plan.parquet         what is to be done
    out/run.json             what was asked for; marks the folder as ours
    out/summary.json         what this returns

    A call with the same source, engine and options goes on where an earlier one stopped.

    Parameters
    ----------
    source
        A folder or a file; as text it may also be a URL. User, password and query of that are not written anywhere.

    Raises
    ------
    ConfigError
        The source holds nothing or is the output, cannot be listed, or `out` holds an earlier run of something else.
    MissingDependencyError
        The source is a URL whose protocol comes from a package that is not installed.
    OutputError
        The disk is full. What is finished is kept.
    """
    options = options or RunOptions()
    started = time.monotonic()
    tree = open_source(source, skip_folder=out)
    chain, settings, make_plan = _prepare(tree, bundle, out, options)
    with RunFolder(tree.on_this_machine, out, options.shard) as folder:
        plan = folder.begin_or_resume(settings, options.on_existing, make_plan)
        mine = range(options.shard[0], plan.parts, options.shard[1])
        task = Setup(
            bundle=bundle,
            chain=chain,
            out=out.absolute(),  # other machines are in other folders
            partial=folder.partial,
            image_format=options.image_format,
            packed=options.packed,
            compare=options.compare,
            top=options.top,
            max_pixels=options.max_pixels,
            verbose=console.is_verbose(),
            gate=_gate(bundle, options),
            images_to=options.images_to,
            source=source,
        )
        done = _process(task, plan, folder, mine, options, worker)
        parts = [part for number in mine if (part := folder.part_file(number))]
        summary = {
            "inputs": sum(map(plan.size, mine)),
            "finished": all(map(folder.is_committed, mine)) and not done.left,
            **summarise(parts),
            "this_call": {
                **done.facts(started),
                "command": _command(source, tree),
                "bundle": str(bundle.path),
                "bundle_sha256": bundle.sha256,
            },
            **settings,
            "share": "{}/{}".format(*options.shard),
            "purifyctl": purifyctl.__version__,
            "machine": machine(),
        }
        if done.rows or not folder.has_final_summary():
            folder.write_summary(summary)
        for wanted, ending in ((options.csv, ".csv"), (options.jsonl, ".jsonl")):
            if wanted:
                write_text(parts, folder.text_file(ending))
    if done.too_many:
        console.error(f"Stopped: {done.errors} inputs failed, and --max-errors allows {options.max_errors}.")
        return RunResult(summary, 1)
    if not summary["finished"]:
        return RunResult(summary, 130)
    return RunResult(summary, 0 if set(summary["statuses"]) <= {"ok"} else 3)


def dry_run(source: Path | str, bundle: Bundle, out: Path, options: RunOptions) -> dict[str, Any]:
    """What `run` would do, told without doing or writing anything.

    Raises
    ------
    ConfigError
        As `run` would.
    """
    tree = open_source(source, skip_folder=out)
    _, settings, make_plan = _prepare(tree, bundle, out, options)
    check_apart(tree.on_this_machine, out)
    resumes = options.on_existing == "resume" and (out / PLAN).is_file()
    if resumes:
        check_same(out, settings)
    with tempfile.TemporaryDirectory() as folder:
        file = out / PLAN if resumes else Path(folder) / PLAN
        if not resumes:
            make_plan(file)
        plan = Plan(file)
        index, of = options.shard
        mine = range(index, plan.parts, of)
        first = plan.part(index).inputs[:SHOWN] if mine else ()
        return {
            "inputs": sum(map(plan.size, mine)),
            "shards": len(mine),
            "finished_shards": len(set(parts_of(out)) & set(mine)) if resumes else 0,
            "first": {
                printable(one.image.path): printable(one.output) if options.image_format else None for one in first
            },
            **({"first_unflagged": _passed_on(first, options)} if options.gate is not None else {}),
        }


def _passed_on(inputs: Sequence[Input], options: RunOptions) -> dict[str, str | None]:
    """Where their files go if the gate does not flag them; None: nowhere."""
    written = options.image_format is not None and options.unflagged != "leave"
    return {printable(one.image.path): printable(IMAGES / one.image.path) if written else None for one in inputs}


def _command(source: Path | str, tree: Source) -> str:
    """What was typed, without the secrets in URLs."""
    shown = str(source) if tree.on_this_machine else tree.name
    return shlex.join(shown if word == str(source) else without_secrets(word) for word in sys.argv)


def _prepare(
    source: Source, bundle: Bundle, out: Path, options: RunOptions
) -> tuple[tuple[str, ...], dict[str, Any], Callable[[Path], None]]:
    """The networks to run, what identifies the run, and what writes its plan into a file."""
    bundle.check_runs_here()
    if options.compare and "classifier" not in bundle.manifest.networks:
        raise ConfigError(
            f"{bundle.path} has no classifier, so there is nothing to compare with.",
            hint="leave out --compare, or name a bundle that was built with --classifier",
        )
    if options.images_to:
        _check_apart(source, RemoteFolder(options.images_to))
    _gate(bundle, options)
    if options.gate is not None and options.unflagged == "link":
        _check_links(source, out)
    chain = bundle.chain(classify=options.classify, apart=options.compare or options.gate is not None)
    labels = bundle.labels if chain != ("purifier",) else Labels(())
    found = source.inputs(files_from=options.files_from, include=options.include, exclude=options.exclude)

    def make_plan(file: Path) -> None:
        write_plan(
            file,
            itertools.islice(found, options.limit),
            image_format=options.image_format or "png",
            truth=TruthFromFolder(labels),
            batch_size=bundle.manifest.batch_size,
            archives=options.packed,
        )

    settings = {
        "source": source.name,
        "options": _identity(options),
        "engine": _engine_facts(bundle, classify=chain != ("purifier",)),
    }
    return chain, settings, make_plan


def _gate(bundle: Bundle, options: RunOptions) -> GateSetup | None:
    """Raises ConfigError where the bundle has no such gate."""
    if options.gate is None:
        return None
    if "gate" not in bundle.manifest.networks:
        raise ConfigError(
            f"{bundle.path} has no gate.", hint="build it with one: purifyctl build-engine --gate shipped"
        )
    return GateSetup(threshold_for(bundle.manifest.gate_thresholds, options.gate), options.unflagged)


def _check_links(source: Source, out: Path) -> None:
    """Raises ConfigError where no hard link to an input can lie in the output."""
    here = source.on_this_machine
    if here is None:
        raise ConfigError(f"Nothing in {source.name} can be linked.", hint="pass --unflagged copy or leave")
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if here.stat().st_dev != place.stat().st_dev:
        raise ConfigError(
            f"{here} and {out} lie on different file systems, and nothing can be linked from one to the other.",
            hint="pass --unflagged copy or leave",
        )


@dataclass
class _Progress:
    """What one call has done."""

    left: int  # to do
    rows: int = 0
    errors: int = 0
    began: float | None = None  # when the first worker was ready
    seconds: float = 0.0  # from then on
    busy: Busy = field(default_factory=Busy)
    threads: Counter[str] = field(default_factory=Counter)  # of each stage, on all devices
    too_many: bool = False

    def facts(self, started: float) -> dict[str, Any]:
        """For the summary. `started`: when the call began."""
        return {
            "rows": self.rows,
            "seconds": round(self.seconds, 3),
            "images_per_s": round(self.rows / self.seconds, 2) if self.rows and self.seconds else None,
            **(self.busy.figures(self.seconds, self.threads) if self.rows and self.seconds else {}),
            "startup_s": round(self.began - started, 3) if self.began is not None else None,
        }


def _process(
    task: Setup,
    plan: Plan,
    folder: RunFolder,
    mine: range,
    options: RunOptions,
    worker: tuple[str, ...],
) -> _Progress:
    """Work through parts. Rows of a part that is not finished, for whatever reason, are kept for the next call."""
    parts = OpenParts(
        plan, folder, task.bundle.manifest.batch_size, archives=options.packed, retry_failed=options.retry_failed
    )
    left = {number: parts.left(number) for number in mine}
    todo = [number for number in mine if left[number] or not folder.is_committed(number)]
    done = _Progress(left=sum(left.values()))
    folder.clean(mine)
    if not todo:
        return done
    if task.images_to:
        _mark(RemoteFolder(task.images_to), folder.marker)
    with ExitStack() as stack:
        devices = stack.enter_context(_devices(task, plan, folder, options, worker))
        bar = stack.enter_context(console.progress(done.left, "purifying"))
        interrupted = stack.enter_context(drain_on_interrupt("finishing the batches under way."))
        stack.callback(parts.keep)
        batches = itertools.takewhile(lambda _: not interrupted.is_set() and not done.too_many, parts.batches(todo))
        stream = stack.enter_context(closing(process_all(devices, batches)))
        for batch, rows in stream:
            parts.add(batch, rows)
            failed = sum(row.status != "ok" for row in rows)
            bar.advance(len(rows), errors=failed)
            done.busy.add(rows)
            done.left -= len(rows)
            done.rows += len(rows)
            done.errors += failed
            done.too_many = options.max_errors is not None and done.errors > options.max_errors
        for device in devices:
            done.threads.update(device.threads)
        done.began = min((d.ready_at for d in devices if d.ready_at is not None), default=None)
        done.seconds = time.monotonic() - done.began if done.began is not None else 0.0
    return done


@contextmanager
def _devices(
    task: Setup, plan: Plan, folder: RunFolder, options: RunOptions, worker: tuple[str, ...]
) -> Iterator[Sequence[Device]]:
    """What works on batches: those of this machine, or of a cluster."""
    if options.ray is None:
        yield [Supervisor(task, image_timeout=options.image_timeout, gpu=g, command=worker) for g in gpus(task.bundle)]
        return
    from purifyctl.run.parent.cluster import ray_devices

    source = open_source(task.source)
    if source.has_secrets or (task.images_to and RemoteFolder(task.images_to).has_secrets):
        raise ConfigError(
            "Ray notes the words of commands, and a URL among them holds a password or a signature.",
            hint="give the credentials to all machines in their environment, as the protocol's library reads it",
        )
    setup = MachineSetup(
        task=task,
        probe=_readable(plan, source),
        marker=folder.marker,
        marker_sha256=file_sha256(folder.marker),
        image_timeout=options.image_timeout,
        command=worker if worker != COMMAND else None,  # which names this machine's Python
    )
    with ray_devices(setup, address=options.ray, workers=options.workers) as devices:
        yield devices


def _readable(plan: Plan, source: Source) -> ImageFile | None:
    """One of the first inputs, for other machines to try."""
    for one in plan.part(0).inputs[:PROBES]:
        with suppress(ImageError):
            source.read(one.image)
            return one.image
    return None


def _check_apart(source: Source, store: RemoteFolder) -> None:
    """Raises ConfigError where images would come to lie among the inputs."""
    inputs, images = f"{source.name}/", f"{store.url}/"
    if inputs.startswith(images) or images.startswith(inputs):
        raise ConfigError(
            f"Images in {store.url} would lie among the inputs in {source.name}.", hint="choose another --images-to"
        )


def _mark(store: RemoteFolder, settings: Path) -> None:
    """Leave word of what makes the images in a store, before they are made. Raises ConfigError where that fails."""
    try:
        store.write(PurePosixPath(settings.name), settings.read_bytes())
    except OSError as error:
        raise ConfigError(
            f"{store.url} cannot be written to: {error}.", hint="check --images-to, and your credentials for it"
        ) from None


def _identity(options: RunOptions) -> dict[str, Any]:
    """What resuming must not change, with another form of the fields that are marked `told_by`."""
    gated = {"gate": options.gate, "unflagged": options.unflagged} if options.gate is not None else {}
    listed = {"files_from": file_sha256(options.files_from)} if options.files_from else {}
    stored = {"images_to": RemoteFolder(options.images_to).url} if options.images_to else {}
    return identity(options, always=ALWAYS_WRITTEN) | gated | listed | stored


def _engine_facts(bundle: Bundle, classify: bool) -> dict[str, Any]:
    """What identifies an engine: built again from the same, wherever, it is the same."""
    manifest = bundle.manifest
    return {
        "files_sha256": hashlib.sha256(json.dumps(manifest.files, sort_keys=True).encode()).hexdigest(),
        "backend": f"{manifest.backend} {manifest.backend_version}",
        "precision": manifest.precision,
        "image_size": manifest.image_size,
        "batch_size": manifest.batch_size,
        "purifier": manifest.networks["purifier"].name,
        "classifier": manifest.networks["classifier"].name if classify else None,
    }
