"""`run`: plan the batches, keep every stage busy, commit the rows.

    read (threads) -> decode (DALI's threads) -> infer (the engine's threads) -> encode and write (threads)

Each stage is a pool whose tasks wait for the stage before; pools take tasks in order, so nothing can deadlock, and
the number of batches under way is bounded, so memory is too. The main thread takes finished batches in order.
"""

import dataclasses
import os
import shlex
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import purifyctl
from purifyctl import console
from purifyctl.bundle import Bundle
from purifyctl.errors import ConfigError
from purifyctl.files import write_json
from purifyctl.images import Decoder, list_images
from purifyctl.images.decode import MAX_PIXELS
from purifyctl.images.sink import IMAGES, output_paths, prepare_output
from purifyctl.interrupt import drain_on_interrupt
from purifyctl.labels import Labels, TruthFromFolder
from purifyctl.machine import machine
from purifyctl.parquet import write_part
from purifyctl.pipeline import stages
from purifyctl.pipeline.rows import Row, write_text
from purifyctl.pipeline.summary import summarise

ROWS_PER_PART = 1000
ROWS, SUMMARY, SETTINGS = "rows", "summary.json", "run.json"
READ_THREADS = 4  # reading waits for disks and networks, not for the processor


@dataclass(frozen=True)
class RunOptions:
    """What `purifyctl run` can be told, beyond source, engine and output."""

    image_format: str | None = "png"  # "png", "webp" (lossless), "jpeg"; None: rows only
    classify: bool = True
    compare: bool = False  # classify the unpurified images too
    top: int = 5  # classes per row
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    csv: bool = False
    jsonl: bool = False
    overwrite: bool = False  # replace an earlier run's results in the same folder
    max_errors: int | None = None  # stop when more inputs than this have failed
    max_pixels: int = MAX_PIXELS

    def __post_init__(self) -> None:
        if self.top < 1:
            raise ConfigError(f"top is {self.top}; it must be at least 1.")
        if self.compare and not self.classify:
            raise ConfigError("compare needs a classifier.", hint="leave out --classifier none or --compare")


@dataclass(frozen=True)
class RunResult:
    summary: dict[str, Any]
    exit_code: int  # 0 ok, 3 some inputs failed, 1 stopped by max_errors, 130 interrupted


def run(source: Path, bundle: Bundle, out: Path, options: RunOptions | None = None) -> RunResult:
    """Purify and classify every file under `source`; write images, rows and a summary into `out`.

    out/images/...           purified images, in the tree of the source
    out/rows/part-*.parquet  one row per input
    out/run.json             what was asked for; marks the folder as ours
    out/summary.json         what this returns

    Raises
    ------
    ConfigError
        The source holds nothing or is the output, or `out` holds an earlier run.
    """
    options = options or RunOptions()
    started = time.monotonic()
    bundle.check_runs_here()
    if options.compare and "classifier" not in bundle.manifest.networks:
        raise ConfigError(f"{bundle.path} has no classifier, so there is nothing to compare with.")
    chain = bundle.chain(classify=options.classify, apart=options.compare)
    classify = chain != ("purifier",)
    labels = bundle.labels if classify else Labels(())
    items = _plan(source, out, options, labels)
    settings = {
        "source": str(source.absolute()),
        "options": dataclasses.asdict(options),
        "engine": _engine_facts(bundle, classify),
        "purifyctl": purifyctl.__version__,
        "command": shlex.join(sys.argv),
    }
    makes = (ROWS, SUMMARY, "rows.csv", "rows.jsonl")
    prepare_output(source, out, makes=makes, marker=SETTINGS, settings=settings, overwrite=options.overwrite)
    (out / ROWS).mkdir()
    too_many = False
    writer = _PartWriter(out / ROWS)
    with ExitStack() as stack:
        purifier = stack.enter_context(bundle.open(chain[0]))
        threads = len(os.sched_getaffinity(0))
        decoder = stack.enter_context(
            Decoder(
                size=bundle.manifest.image_size,
                batch_size=bundle.manifest.batch_size,
                threads=threads,
                device_id=purifier.device_id,
                max_pixels=options.max_pixels,
            )
        )
        classifier = stack.enter_context(bundle.open(chain[1])) if len(chain) > 1 else None
        job = stages.Job(
            decoder=decoder,
            purifier=purifier,
            classifier=classifier,
            labels=labels,
            image_format=options.image_format,
            out=out,
            compare=options.compare,
            top=options.top,
            bundle_sha256=bundle.sha256,
        )
        batches = [items[i : i + bundle.manifest.batch_size] for i in range(0, len(items), bundle.manifest.batch_size)]
        bar = stack.enter_context(console.progress(len(items), "purifying"))
        interrupted = stack.enter_context(drain_on_interrupt("finishing the batches under way."))
        stack.callback(writer.flush)  # rows of finished batches are kept, whatever happens
        processing = time.monotonic()
        stream = stack.enter_context(closing(_stream(job, batches, threads, interrupted)))
        for rows in stream:
            writer.add(rows)
            bar.advance(len(rows), errors=sum(row.status != "ok" for row in rows))
            too_many = options.max_errors is not None and bar.errors > options.max_errors
            if too_many:
                break
        stream.close()
        writer.flush()
        processed = time.monotonic()
    if options.csv:
        write_text(out / ROWS, out / "rows.csv")
    if options.jsonl:
        write_text(out / ROWS, out / "rows.jsonl")
    summary = {
        "inputs": len(items),
        "finished": bar.done == len(items),
        **summarise(out / ROWS, processed - processing),
        "startup_s": round(processing - started, 3),
        **settings,
        "machine": machine(),
    }
    write_json(out / SUMMARY, summary)
    if too_many:
        console.error(f"Stopped: {bar.errors} inputs failed, and --max-errors allows {options.max_errors}.")
        return RunResult(summary, 1)
    if not summary["finished"]:
        return RunResult(summary, 130)
    return RunResult(summary, 3 if bar.errors else 0)


def _plan(source: Path, out: Path, options: RunOptions, labels: Labels) -> list[stages.Item]:
    images = list_images(source, include=options.include, exclude=options.exclude, skip_folder=out)
    outputs = output_paths([image.path for image in images], options.image_format or "png")
    truth = TruthFromFolder(labels)
    return [
        stages.Item(image, IMAGES / output, truth(image.path)) for image, output in zip(images, outputs, strict=True)
    ]


def _stream(
    job: stages.Job, batches: Sequence[Sequence[stages.Item]], threads: int, stop: threading.Event
) -> Generator[list[Row], None, None]:
    """Run batches through all stages at once; yield their rows in order. After `stop`, finish what is under way."""
    under_way: deque[Future[tuple[stages.Work, list[Future[None]]]]] = deque()
    most = job.purifier.concurrency + 3  # one being read, one decoded, one encoded, and the engine's own
    with ExitStack() as stack:

        def pool(size: int, name: str) -> ThreadPoolExecutor:
            executor = ThreadPoolExecutor(size, thread_name_prefix=name)
            stack.callback(executor.shutdown, cancel_futures=True)
            return executor

        # entered first, left last: infer hands its work to the encoders
        encoders = pool(threads, "encode")
        infer, decode, read = pool(job.purifier.concurrency, "infer"), pool(1, "decode"), pool(READ_THREADS, "read")
        for number, items in enumerate(batches):
            if stop.is_set():
                break
            reading = read.submit(stages.read, job, number, items)
            decoding = decode.submit(stages.decode, job, reading)
            under_way.append(infer.submit(stages.infer, job, decoding, encoders))
            if len(under_way) >= most:
                yield _rows(under_way.popleft())
        while under_way:
            yield _rows(under_way.popleft())


def _rows(inferring: Future[tuple[stages.Work, list[Future[None]]]]) -> list[Row]:
    work, written = inferring.result()
    for future in written:
        future.result()
    return work.rows


class _PartWriter:
    """Collects rows and commits them in parts, in order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: list[Row] = []
        self._part = 0

    def add(self, rows: Sequence[Row]) -> None:
        self._rows += rows
        if len(self._rows) >= ROWS_PER_PART:
            self.flush()

    def flush(self) -> None:
        if self._rows:
            write_part(self._rows, Row, self._folder / f"part-{self._part:05d}.parquet")
            self._part += 1
            self._rows = []


def _engine_facts(bundle: Bundle, classify: bool) -> dict[str, Any]:
    manifest = bundle.manifest
    return {
        "path": str(bundle.path),
        "sha256": bundle.sha256,
        "backend": f"{manifest.backend} {manifest.backend_version}",
        "precision": manifest.precision,
        "image_size": manifest.image_size,
        "batch_size": manifest.batch_size,
        "purifier": manifest.networks["purifier"].name,
        "classifier": manifest.networks["classifier"].name if classify else None,
    }
