"""`evaluate`: photographs and a ladder of attacks in; rows, cells and example pictures out.

Chunk by chunk: a chunk is decoded once and climbs the whole ladder, so that memory is bounded, and what cannot work
shows in the first chunk. A chunk's rows on one rung are committed by one rename; a rung that a chunk has rows for is
not climbed again.
"""

import json
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import purifyctl
from purifyctl import console
from purifyctl.attacks.libraries import check_installed
from purifyctl.config import EpsSpace, eps_scale, format_eps, parse_eps
from purifyctl.errors import ConfigError, PurifyctlError
from purifyctl.evaluation.chunk import Chunk, climb
from purifyctl.evaluation.examples import Examples, find_examples
from purifyctl.evaluation.ladder import EPS, SPACES, THREAT_MODELS, Rung, build_ladder, paper_eps
from purifyctl.evaluation.masking import CHECKS
from purifyctl.evaluation.options import EvaluateOptions
from purifyctl.evaluation.plan import Item, Plan, make_plan
from purifyctl.evaluation.records import Record, part_file, read_tables, unreadable, write_records
from purifyctl.evaluation.settings import RECORDS, begin_or_resume
from purifyctl.evaluation.subject import Subject, load_subject
from purifyctl.evaluation.summary import summarise, surrogate_top1
from purifyctl.images import Decoder
from purifyctl.images.sink import printable
from purifyctl.interrupt import drain_on_interrupt
from purifyctl.machine import installed, machine
from purifyctl.photographs import read_some, to_tensor
from purifyctl.sources import list_images
from purifyctl.sources.sketch import count_known, is_sample

TIMES = "times.jsonl"  # seconds of each chunk on each rung
PACKAGES = ("torch", "torchvision", "timm", "foolbox", "adversarial-robustness-toolbox", "pyautoattack", "pillow")


@dataclass(frozen=True)
class EvaluateResult:
    document: dict[str, Any]  # what evaluation.json holds
    examples: Examples | None  # None: interrupted, or no rung to take them from
    exit_code: int  # 0 ok, 3 some photographs could not be read, 130 interrupted


def evaluate(photos: Path, out: Path, options: EvaluateOptions) -> EvaluateResult:
    """Climb the ladder with every photograph under `photos`; keep rows in `out`, and return what they say.

    A folder that holds an unfinished evaluation with the same settings is gone on with.

    out/settings.json          what was asked for; marks the folder as ours
    out/records/RUNG/part-*    rows, one per image, rung and defence
    out/times.jsonl            what each chunk on each rung took

    Raises
    ------
    ConfigError
        Nothing to evaluate, a ladder without rungs, or an `out` with other settings.
    MissingDependencyError
        The library of one of the ladder's attacks is not installed.
    """
    if out.resolve() == photos.resolve():
        raise ConfigError("--out is the folder of the photographs.", hint="choose another --out")
    images = list_images(photos, skip_folder=out)
    subject, facts = load_subject(options)
    plan = make_plan(
        images,
        subject.classifier.labels,
        options.labels,
        limit=options.limit,
        expensive_limit=options.expensive_limit,
        chunk_size=options.batch_size,
        seed=options.seed,
    )
    for name, sketched in subject.sketches.items():
        known = None if sketched is None else count_known((item.image for item in plan.items), sketched)
        by_sample = sketched is not None and is_sample(sketched)
        facts["purifiers"][name] |= {"known_photographs": known, "known_by_sample": by_sample}
        if known:
            console.warn(f"{known} of {len(plan.items)} photographs look like ones that {name} was trained with.")
    std = subject.classifier.std.flatten().tolist()
    papers = paper_eps(std, options.eps_space) if options.paper else {}
    ladder = _ladder(subject, options, std, tuple(papers.values()))
    for rung in ladder:
        if rung.attack:
            check_installed(rung.attack)
    settings = {
        **facts,
        "photographs": {"n": len(plan.items), "sha256": plan.sha256},
        "labels": options.labels,
        "ladder": [rung.key for rung in ladder],
        "expensive_limit": options.expensive_limit,
        "image_size": options.image_size,
        "batch_size": options.batch_size,
        "seed": options.seed,
        "versions": {"purifyctl": purifyctl.__version__, **{name: installed(name) for name in PACKAGES}},
        "device": _device(subject.device),
    }
    begin_or_resume(out, settings)
    _say(plan, ladder, options, papers)
    with Decoder(size=options.image_size, batch_size=options.batch_size, threads=2) as decoder:
        job = _Job(plan, ladder, subject, out, decoder)
        done, total = job.run()
        if done < total:
            console.warn(f"{done} of {total} images x rungs are done and kept in {out}; the same command goes on.")
            return EvaluateResult({"finished": False, "done": done, "total": total}, None, 130)
        bad = unreadable(out / RECORDS / "clean")
        if len(bad) == len(plan.items):
            path, why = next(iter(bad.items()))
            raise PurifyctlError(
                f"None of {len(bad)} photographs could be read; the first, {path}: {why}", hint="check --photos"
            )
        tables = {rung.key: read_tables(out / RECORDS, rung.key) for rung in ladder}
        examples = find_examples(ladder, tables, subject, job.places, job.climbers)
    document = {
        "finished": True,
        "settings": settings,
        "n": len(plan.items) - len(bad),
        "unreadable": bad,
        "unlabelled": plan.unlabelled,
        "eps_space": options.eps_space,
        "paper_eps": papers,
        "not_measured": _not_measured(ladder, gated=options.gate is not None),
        "surrogate_clean_top1": surrogate_top1(tables["clean"]),
        "checks": {name: {"raised_if": c.raised_if, "explanation": c.explanation} for name, c in CHECKS.items()},
        "cells": summarise(tables, ladder, options.seed, settings.get("gate", {}).get("threshold")),
        "cost": _cost(out / TIMES, ladder),
        "machine": {**machine(), "device": _device(subject.device)},
        "command": shlex.join(sys.argv),
    }
    return EvaluateResult(document, examples, 3 if bad else 0)


def _ladder(
    subject: Subject, options: EvaluateOptions, std: Sequence[float], papers: Sequence[float]
) -> tuple[Rung, ...]:
    scale = eps_scale(options.eps_space, std)
    default = tuple(model for model in THREAT_MODELS if model != "transfer" or options.surrogates)
    return build_ladder(
        threat_models=options.threat_models or default,
        eps=tuple(parse_eps(text, scale) for text in options.eps) or EPS,
        attacks=options.attacks,
        surrogates=tuple(subject.surrogates),
        pipelines=subject.pipelines,
        random=tuple(subject.random),
        paper_eps=papers,
        explicit=bool(options.threat_models),
    )


def _not_measured(ladder: Sequence[Rung], *, gated: bool) -> list[str]:
    """What the protocol has and this ladder has not, for the report."""
    climbed = {rung.threat_model for rung in ladder}
    missing = [f"{model.replace('_', '-')} attacks" for model in THREAT_MODELS if model not in climbed]
    if "adaptive" in climbed and not any(rung.bpda for rung in ladder):
        missing.append("the BPDA sanity check")
    if "adaptive" in climbed and not any(rung.attack and rung.attack.kind == "autoattack" for rung in ladder):
        missing.append("AutoAttack")
    if not gated:
        missing.append("the gate (--gate)")
    return missing


def _say(plan: Plan, ladder: Sequence[Rung], options: EvaluateOptions, papers: dict[EpsSpace, float]) -> None:
    labels = {"folder": "true labels from the folders' names", "predicted": "labels predicted on the clean photographs"}
    costly = sum(rung.costly for rung in ladder)
    console.note(
        f"{len(plan.items)} photographs, {len(ladder)} rungs ({costly} costly ones with the first "
        f"{min(options.expensive_limit, len(plan.items))} photographs); {labels[options.labels]}; seed {options.seed}; "
        f"eps given in {SPACES[options.eps_space]}."
    )
    if plan.unlabelled:
        console.warn(f"{plan.unlabelled} photographs are left out: no folder on their path is named after a class.")
    if not any(rung.threat_model == "transfer" for rung in ladder):
        console.note("Transfer is not measured: no rung for it (--surrogate NAME adds it).")
    if papers:
        readings = ", ".join(f"{format_eps(eps)} (in {SPACES[space]})" for space, eps in papers.items())
        console.note(f"The paper's eps 0.3 may mean {readings}: each is measured.")


class _Job:
    """The loop over chunks and rungs."""

    def __init__(self, plan: Plan, ladder: Sequence[Rung], subject: Subject, out: Path, decoder: Decoder) -> None:
        self._plan, self._ladder, self._subject, self._decoder = plan, ladder, subject, decoder
        self._records, self._times = out / RECORDS, out / TIMES
        self._chunks = plan.chunks
        self.places = {printable(item.image.path): n for n, items in enumerate(self._chunks) for item in items}

    def run(self) -> tuple[int, int]:
        """Climb what is missing. Returns how many images x rungs are done, and of how many."""
        counts = {
            (rung.key, number): self._plan.photographs(rung, number)
            for rung in self._ladder
            for number in range(len(self._chunks))
        }
        done = sum(n for (key, number), n in counts.items() if part_file(self._records, key, number).exists())
        with (
            console.progress(sum(counts.values()), "evaluating", done=done) as bar,
            drain_on_interrupt("finishing and keeping this chunk's rung.") as stop,
        ):
            for number in range(len(self._chunks)):
                missing = [
                    rung
                    for rung in self._ladder
                    if counts[rung.key, number] and not part_file(self._records, rung.key, number).exists()
                ]
                chunk = self.load(number) if missing and not stop.is_set() else None
                for rung in missing:
                    if chunk is None or stop.is_set():
                        return bar.done, bar.total
                    self._climb(rung, chunk)
                    bar.advance(counts[rung.key, number], text=rung.title)
        return bar.done, bar.total

    def load(self, number: int) -> Chunk:
        """Decode a chunk. Photographs that cannot be read are missing from it."""
        items = self._chunks[number]
        read = read_some([item.image for item in items], self._decoder)
        good = [items[position] for position in read.positions]
        x = to_tensor(read.images).to(self._subject.device)
        y = self._labels(good, x)
        paths = [printable(item.image.path) for item in good]
        self._check_the_same(number, paths)
        unread = {printable(items[position].image.path): str(error) for position, error in read.errors.items()}
        return Chunk(number, x, y, paths, self._subject, unread)

    def climbers(self, rung: Rung, number: int) -> Chunk:
        """The photographs of a chunk that climb a rung: all, or the first ones where it is costly."""
        return self._of(rung, self.load(number))

    def _of(self, rung: Rung, chunk: Chunk) -> Chunk:
        return chunk.only(set(self._planned(chunk.number)[: self._plan.photographs(rung, chunk.number)]))

    def _planned(self, number: int) -> list[str]:
        return [printable(item.image.path) for item in self._chunks[number]]

    def _check_the_same(self, number: int, paths: Sequence[str]) -> None:
        """See that what could be read when the chunk's clean rung was climbed is what can be read now."""
        clean = part_file(self._records, "clean", number)
        if clean.exists():
            before = set(self._planned(number)) - set(unreadable(clean))
            if changed := sorted(before ^ set(paths)):
                raise PurifyctlError(
                    f"{changed[0]} could be read earlier in this evaluation and cannot now, or the other way round.",
                    hint="put it back as it was, or choose another --out",
                )

    @torch.no_grad()
    def _labels(self, items: Sequence[Item], x: torch.Tensor) -> torch.Tensor:
        if not items or items[0].true_index is not None:
            return torch.tensor([item.true_index for item in items], dtype=torch.int64, device=x.device)
        predicted: torch.Tensor = self._subject.classifier(x).argmax(1)
        return predicted

    def _climb(self, rung: Rung, chunk: Chunk) -> None:
        started = time.monotonic()
        climbers = self._of(rung, chunk)
        rows = climb(rung, climbers) if climbers.paths else []
        if rung.attack is None:
            rows += [Record(path, "", error=why) for path, why in chunk.unreadable.items()]
        write_records(rows, part_file(self._records, rung.key, chunk.number))
        seconds = time.monotonic() - started
        with self._times.open("a") as log:
            line = {"rung": rung.key, "chunk": chunk.number, "images": len(climbers.paths), "seconds": seconds}
            log.write(json.dumps(line) + "\n")


def _cost(times: Path, ladder: Sequence[Rung]) -> list[dict[str, Any]]:
    """Wall time per image on each rung, attack and all defences together, in ms."""
    seconds: dict[str, float] = defaultdict(float)
    images: dict[str, int] = defaultdict(int)
    for line in times.read_text().splitlines():
        try:
            entry = json.loads(line)
        except ValueError:  # cut short by a full disk
            continue
        seconds[entry["rung"]] += entry["seconds"]
        images[entry["rung"]] += entry["images"]
    return [
        {
            "rung": rung.key,
            "images": images[rung.key],
            "ms_per_image": round(1e3 * seconds[rung.key] / images[rung.key], 1),
        }
        for rung in ladder
        if images[rung.key]
    ]


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
