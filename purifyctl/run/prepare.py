"""Before a run: check the options, and decide what identifies the run, so that a later call can resume it."""

import hashlib
import heapq
import itertools
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from purifyctl.config.options import identity
from purifyctl.config.run import ALWAYS_WRITTEN, COMPARED, SETTINGS, RunOptions
from purifyctl.config.truth import FOLDERS, NONE
from purifyctl.engine.bundle import Bundle
from purifyctl.errors import ConfigError
from purifyctl.files import file_sha256
from purifyctl.images.names import Naming
from purifyctl.labels import Labels, imagenet_labels
from purifyctl.run.listed import Listed
from purifyctl.run.plan import Plan, write_plan
from purifyctl.run.run_folder import read_settings
from purifyctl.sources import Found, Source
from purifyctl.sources.choice import Choice, LeftOut
from purifyctl.sources.store import RemoteFolder
from purifyctl.thresholds import threshold_for
from purifyctl.truth import planned_truth


@dataclass(frozen=True)
class Prepared:
    """A run that can begin."""

    options: RunOptions  # with everything decided that depends on source, engine and folder
    networks: tuple[str, ...]  # of the bundle's chain
    threshold: float | None  # gate score from which on an image is flagged; None: no gate
    settings: dict[str, Any]  # what identifies the run; it is written to run.json
    make_plan: Callable[[Path, Plan | None], Listed]  # writes the plan to a file, or what an earlier one lacks
    left_out: LeftOut  # complete when the plan is made


def prepare(source: Source, bundle: Bundle, out: Path, options: RunOptions) -> Prepared:
    """Check everything that can be checked before anything is written.

    Raises
    ------
    ConfigError
        Source, bundle, output and options do not fit together.
    """
    bundle.check_device(options.device)
    bundle.check_runs_here()
    if options.compare and "classifier" not in bundle.manifest.networks:
        raise ConfigError(
            f"{bundle.path} has no classifier, so there is nothing to compare with.",
            hint="leave out --compare, or name a bundle that was built with --classifier",
        )
    if options.whole:
        _ = bundle.tiling  # refuses a purifier that takes no tiles
    elif options.size not in (None, 0, bundle.manifest.image_size):
        raise ConfigError(
            f"{bundle.path} takes squares of {bundle.manifest.image_size} pixels, and --size is {options.size}.",
            hint=f"purifyctl build-engine --image-size {options.size} --out DIR, then run --engine DIR",
        )
    if options.images_to:
        _check_store_apart(source, RemoteFolder(options.images_to))
    threshold = _threshold(bundle, options)
    if options.gate is not None and options.unflagged == "link":
        _check_links(source, out)
    choice = Choice(options.include, options.exclude, strict=options.strict)
    compare, found = _compares(bundle, out, options, source.inputs(choice, files_from=options.files_from))
    options = replace(options, compare=compare)
    # two graphs where the classifier sees something else than what the purifier has just made
    apart = compare or options.gate is not None or options.whole
    networks = bundle.chain(classify=options.classify, apart=apart)
    labels = bundle.labels if networks != ("purifier",) else Labels(())
    truth = planned_truth(options.truth, labels, source.on_this_machine)

    def make_plan(file: Path, earlier: Plan | None) -> Listed:
        return write_plan(
            file,
            found if options.limit is None else _sample(found, options.limit),
            naming=Naming(options.image_format or "png", keep=options.keep_names),
            truth=truth,
            batch_size=bundle.manifest.batch_size,
            archives=options.packed,
            earlier=earlier,
            about=lambda: {
                "left_out": choice.left_out.facts(),
                "truth": truth.facts(earlier.truth if earlier else None),
            },
        )

    settings = {
        "source": source.name,
        "options": _identity(options),
        "engine": _engine_facts(bundle, classify=networks != ("purifier",)),
    }
    return Prepared(options, networks, threshold, settings, make_plan, choice.left_out)


def _sample(found: Iterable[Found], n: int) -> list[Found]:
    """`n` of the inputs, spread over all of them: those whose paths have the smallest hashes. A larger sample holds a
    smaller one.
    """
    smallest = heapq.nsmallest(n, found, key=lambda f: (hashlib.blake2b(f.path, digest_size=8).digest(), f.path))
    return sorted(smallest)


def _compares(bundle: Bundle, out: Path, options: RunOptions, found: Iterable[Found]) -> tuple[bool, Iterable[Found]]:
    """Whether the unpurified images are classified, too; and all inputs. It may read the first of them.

    Without --compare and --no-compare, a run that is resumed stays what it was, and a new one compares if it is small.
    """
    if options.compare is not None:
        return options.compare, found
    if options.on_existing == "resume" and (out / SETTINGS).is_file():
        return bool(read_settings(out).get("options", {}).get("compare")), found
    if not options.classify or "classifier" not in bundle.manifest.networks:
        return False, found
    if options.limit is not None and options.limit <= COMPARED:
        return True, found
    rest = iter(found)
    first = list(itertools.islice(rest, COMPARED + 1))
    return len(first) <= COMPARED, itertools.chain(first, rest)


def _threshold(bundle: Bundle, options: RunOptions) -> float | None:
    """Raises ConfigError if a gate is asked for, and the bundle has none, or no threshold for this rate."""
    if options.gate is None:
        return None
    if "gate" not in bundle.manifest.networks:
        raise ConfigError(
            f"{bundle.path} has no gate.", hint="build it with one: purifyctl build-engine --gate shipped"
        )
    return threshold_for(bundle.manifest.gate_thresholds, options.gate)


def _check_links(source: Source, out: Path) -> None:
    """Raises ConfigError if a hard link to an input cannot lie in the output."""
    here = source.on_this_machine
    if here is None:
        raise ConfigError(f"Nothing in {source.name} can be linked.", hint="pass --unflagged copy or leave")
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if here.stat().st_dev != place.stat().st_dev:
        raise ConfigError(
            f"{here} and {out} lie on different file systems, and nothing can be linked from one to the other.",
            hint="pass --unflagged copy or leave",
        )


def _check_store_apart(source: Source, store: RemoteFolder) -> None:
    """Raises ConfigError if images would lie among the inputs."""
    inputs, images = f"{source.name}/", f"{store.url}/"
    if inputs.startswith(images) or images.startswith(inputs):
        raise ConfigError(
            f"Images in {store.url} would lie among the inputs in {source.name}.", hint="choose another --images-to"
        )


def _identity(options: RunOptions) -> dict[str, Any]:
    """What resuming must not change, with another form of the fields that are marked `recorded_as`."""
    gated = {"gate": options.gate, "unflagged": options.unflagged or "copy"} if options.gate is not None else {}
    listed = {"files_from": file_sha256(options.files_from)} if options.files_from else {}
    stored = {"images_to": RemoteFolder(options.images_to).url} if options.images_to else {}
    sized = {"size": options.size} if options.whole else {}
    said = {"truth": _truth_said(options.truth)} if options.truth else {}
    return identity(options, always=ALWAYS_WRITTEN) | gated | listed | stored | sized | said


def _truth_said(truth: str) -> str:
    """`folders`, `none`, or the SHA-256 of the file with true classes."""
    return truth if truth in (FOLDERS, NONE) else file_sha256(Path(truth))


def _engine_facts(bundle: Bundle, classify: bool) -> dict[str, Any]:
    """What identifies an engine. An engine that is built again from the same inputs, on any machine, is the same."""
    manifest = bundle.manifest
    return {
        "files_sha256": _sha256(manifest.files),
        "backend": f"{manifest.backend} {manifest.backend_version}",
        "precision": manifest.precision,
        "image_size": manifest.image_size,
        "batch_size": manifest.batch_size,
        "purifier": manifest.networks["purifier"].name,
        "classifier": manifest.networks["classifier"].name if classify else None,
        **({"labels": _sha256(manifest.class_names)} if classify and _are_own(bundle.labels) else {}),
    }


def _are_own(labels: Labels) -> bool:
    """Whether these names are given by the user, so that the same engine may be built with others."""
    return bool(labels.names) and not labels.are_numbers and labels != imagenet_labels()


def _sha256(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()
