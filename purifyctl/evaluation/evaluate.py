"""`evaluate`: photographs and a ladder of attacks in; rows, cells and example pictures out.

The work goes chunk by chunk. A chunk is decoded once and climbs the whole ladder, so memory is bounded, and an error
that concerns every photograph shows in the first chunk. One rename commits a chunk's rows on one rung. A chunk that has
rows for a rung does not climb it again.
"""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

import purifyctl
from purifyctl import console
from purifyctl.attacks import check_installed
from purifyctl.config import ATTACKS, EpsSpace, eps_scale, format_eps, parse_eps
from purifyctl.config.evaluate import ALWAYS_WRITTEN, THREAT_MODELS, EvaluateOptions
from purifyctl.config.folders import EVALUATION_RECORDS
from purifyctl.config.options import identity
from purifyctl.errors import ConfigError, PurifyctlError
from purifyctl.evaluation.examples import Examples, find_examples
from purifyctl.evaluation.ladder import EPS, SPACES, Rung, build_ladder, paper_eps
from purifyctl.evaluation.loop import TIMES, Loop, cost
from purifyctl.evaluation.masking import CHECKS
from purifyctl.evaluation.plan import Plan, make_plan
from purifyctl.evaluation.records import read_tables, unreadable
from purifyctl.evaluation.settings import begin_or_resume
from purifyctl.evaluation.subject import Subject, load_subject
from purifyctl.evaluation.summary import summarise, surrogate_top1
from purifyctl.machine import installed, machine
from purifyctl.photographs import open_decoder
from purifyctl.sources import list_images
from purifyctl.sources.sketch import count_known, is_sample
from purifyctl.truth import Truth, TruthFromFile, recorded_truth, truth_as_asked
from purifyctl.waiting import working

_OF_ATTACKS = dict.fromkeys(attack.package for attack in ATTACKS if attack.package)
PACKAGES = ("torch", "torchvision", "timm", *_OF_ATTACKS, "pillow")  # their versions decide the figures


@dataclass(frozen=True)
class EvaluateResult:
    document: dict[str, Any]  # what evaluation.json holds
    examples: Examples | None  # None: the call was interrupted, or no rung has examples
    exit_code: int  # 0 ok, 3 some photographs could not be read, 130 interrupted


def evaluate(photos: Path, out: Path, options: EvaluateOptions) -> EvaluateResult:
    """Climb the ladder with every photograph under `photos`; keep rows in `out`, and return what they say.

    If `out` holds an unfinished evaluation with the same settings, this continues it.

    out/settings.json          the settings; it marks the folder as that of an evaluation
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
    truth = truth_as_asked(options, subject.classifier.labels, photos)
    options = replace(options, image_size=subject.size)
    plan = make_plan(
        images,
        truth,
        limit=options.limit,
        expensive_limit=options.expensive_limit,
        chunk_size=1 if options.image_size == "original" else options.batch_size,
        seed=options.seed,
    )
    if isinstance(truth, TruthFromFile):
        truth.check_used()
    for name, sketched in subject.sketches.items():
        known = None if sketched is None else count_known((p.image for p in plan.photographs), sketched)
        by_sample = sketched is not None and is_sample(sketched)
        facts["purifiers"][name] |= {"known_photographs": known, "known_by_sample": by_sample}
        if known:
            console.warn(f"{known} of {len(plan.photographs)} photographs look like ones that {name} was trained with.")
    std = subject.classifier.std.flatten().tolist()
    papers = paper_eps(std, options.eps_space) if options.paper else {}
    ladder = _ladder(subject, options, std, tuple(papers.values()))
    for rung in ladder:
        if rung.attack:
            check_installed(rung.attack)
    settings = {
        **facts,
        "photographs": {"n": len(plan.photographs), "sha256": plan.sha256},
        "ladder": [rung.key for rung in ladder],
        "labels": recorded_truth(options),
        **identity(options, always=ALWAYS_WRITTEN),
        "versions": {"purifyctl": purifyctl.__version__, **{name: installed(name) for name in PACKAGES}},
        "device": _device(subject.device),
    }
    begin_or_resume(out, settings)
    _say(plan, ladder, options, papers, truth)
    with open_decoder(options.image_size, options.batch_size, options=options) as decoder:
        loop = Loop(plan, ladder, subject, out, decoder)
        done, total = loop.run()
        if done < total:
            console.warn(f"{done} of {total} images x rungs are done and kept in {out}; the same command continues.")
            return EvaluateResult({"finished": False, "done": done, "total": total}, None, 130)
        bad = unreadable(out / EVALUATION_RECORDS / "clean")
        if len(bad) == len(plan.photographs):
            path, why = next(iter(bad.items()))
            raise PurifyctlError(
                f"None of {len(bad)} photographs could be read; the first, {path}: {why}", hint="check --photos"
            )
        tables = {rung.key: read_tables(out / EVALUATION_RECORDS, rung.key) for rung in ladder}
        with working("making the example pictures"):
            examples = find_examples(ladder, tables, subject, loop.places, loop.climbers)
    document = {
        "finished": True,
        "settings": settings,
        "n": len(plan.photographs) - len(bad),
        "unreadable": bad,
        "unlabelled": plan.unlabelled,
        "eps_space": options.eps_space,
        "paper_eps": papers,
        "not_measured": _not_measured(ladder, gated=options.gate is not None),
        "surrogate_clean_top1": surrogate_top1(tables["clean"]),
        "checks": {name: {"raised_if": c.raised_if, "explanation": c.explanation} for name, c in CHECKS.items()},
        "cells": summarise(tables, ladder, options.seed, settings.get("gate", {}).get("threshold")),
        "cost": cost(out / TIMES, ladder),
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
    """The parts of the protocol that this ladder lacks, for the report."""
    climbed = {rung.threat_model for rung in ladder}
    missing = [f"{model.replace('_', '-')} attacks" for model in THREAT_MODELS if model not in climbed]
    if "adaptive" in climbed and not any(rung.bpda for rung in ladder):
        missing.append("the BPDA sanity check")
    if "adaptive" in climbed and not any(rung.attack and rung.attack.kind == "autoattack" for rung in ladder):
        missing.append("AutoAttack")
    if not gated:
        missing.append("the gate (--gate)")
    return missing


def _say(
    plan: Plan, ladder: Sequence[Rung], options: EvaluateOptions, papers: dict[EpsSpace, float], truth: Truth | None
) -> None:
    labels = f"true labels from {truth.where}" if truth else "labels predicted on the clean photographs"
    expensive, n = sum(rung.expensive for rung in ladder), len(plan.photographs)
    console.note(
        f"{n} photographs, {len(ladder)} rungs ({expensive} expensive ones with the first "
        f"{min(options.expensive_limit, n)} photographs); {labels}; seed {options.seed}; "
        f"eps given in {SPACES[options.eps_space]}."
    )
    if plan.unlabelled:
        console.warn(f"{plan.unlabelled} photographs are left out: their true label is not known ({labels}).")
    if not any(rung.threat_model == "transfer" for rung in ladder):
        console.note("Transfer is not measured: no rung for it (--surrogate NAME adds it).")
    if papers:
        readings = ", ".join(f"{format_eps(eps)} (in {SPACES[space]})" for space, eps in papers.items())
        console.note(f"The paper's eps 0.3 may mean {readings}: each is measured.")


def _device(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
