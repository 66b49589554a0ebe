"""Before a run: check the options, and decide what identifies the run, so that a later call can resume it."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from purifyctl.config.options import identity
from purifyctl.config.run import ALWAYS_WRITTEN, COMPARED, RunOptions
from purifyctl.engine.bundle import Bundle
from purifyctl.errors import ConfigError
from purifyctl.files import file_sha256
from purifyctl.labels import Labels, TruthFromFolder
from purifyctl.run.plan import write_plan
from purifyctl.run.run_folder import SETTINGS, read_settings
from purifyctl.sources import Found, Source
from purifyctl.sources.store import RemoteFolder
from purifyctl.thresholds import threshold_for


@dataclass(frozen=True)
class Prepared:
    """A run that can begin."""

    options: RunOptions  # with everything decided that depends on source, engine and folder
    networks: tuple[str, ...]  # of the bundle's chain
    threshold: float | None  # gate score from which on an image is flagged; None: no gate
    settings: dict[str, Any]  # what identifies the run; it is written to run.json
    make_plan: Callable[[Path], None]  # writes the plan to a file


def prepare(source: Source, bundle: Bundle, out: Path, options: RunOptions) -> Prepared:
    """Check everything that can be checked before anything is written.

    Raises
    ------
    ConfigError
        Source, bundle, output and options do not fit together.
    """
    bundle.check_runs_here()
    if options.compare and "classifier" not in bundle.manifest.networks:
        raise ConfigError(
            f"{bundle.path} has no classifier, so there is nothing to compare with.",
            hint="leave out --compare, or name a bundle that was built with --classifier",
        )
    if options.images_to:
        _check_store_apart(source, RemoteFolder(options.images_to))
    threshold = _threshold(bundle, options)
    if options.gate is not None and options.unflagged == "link":
        _check_links(source, out)
    found = iter(source.inputs(files_from=options.files_from, include=options.include, exclude=options.exclude))
    found = itertools.islice(found, options.limit)
    compare, found = _compares(bundle, out, options, found)
    options = replace(options, compare=compare)
    networks = bundle.chain(classify=options.classify, apart=compare or options.gate is not None)
    labels = bundle.labels if networks != ("purifier",) else Labels(())

    def make_plan(file: Path) -> None:
        write_plan(
            file,
            found,
            image_format=options.image_format or "png",
            truth=TruthFromFolder(labels),
            batch_size=bundle.manifest.batch_size,
            archives=options.packed,
        )

    settings = {
        "source": source.name,
        "options": _identity(options),
        "engine": _engine_facts(bundle, classify=networks != ("purifier",)),
    }
    return Prepared(options, networks, threshold, settings, make_plan)


def _compares(bundle: Bundle, out: Path, options: RunOptions, found: Iterator[Found]) -> tuple[bool, Iterator[Found]]:
    """Whether the unpurified images are classified, too; and all inputs, the first of which were perhaps looked at.

    Without --compare and --no-compare, a run that is resumed stays what it was, and a new one compares if it is small.
    """
    if options.compare is not None:
        return options.compare, found
    if options.on_existing == "resume" and (out / SETTINGS).is_file():
        return bool(read_settings(out).get("options", {}).get("compare")), found
    if not options.classify or "classifier" not in bundle.manifest.networks:
        return False, found
    first = list(itertools.islice(found, COMPARED + 1))
    return len(first) <= COMPARED, itertools.chain(first, found)


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
    return identity(options, always=ALWAYS_WRITTEN) | gated | listed | stored


def _engine_facts(bundle: Bundle, classify: bool) -> dict[str, Any]:
    """What identifies an engine. An engine that is built again from the same inputs, on any machine, is the same."""
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
