"""`run --ray`, on a machine of the cluster: an actor with a supervisor, which has a worker process."""

import os
import queue
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

import ray

import purifyctl
from purifyctl.engine.bundle import Bundle, load_bundle
from purifyctl.errors import BackendError, ConfigError, ImageError, MissingDependencyError, PurifyctlError
from purifyctl.files import file_sha256, write_atomically
from purifyctl.images.sink import printable
from purifyctl.machine import cache_folder
from purifyctl.run.messages import InputBatch, MachineSetup
from purifyctl.run.parent.supervisor import Supervisor
from purifyctl.run.parent.worker_process import COMMAND
from purifyctl.sources import open_source


class Purifier:
    """The actor: a supervisor, and a queue of batches for it."""

    def __init__(self) -> None:
        self._batches: queue.SimpleQueue[InputBatch | None] = queue.SimpleQueue()
        self._supervisor: Supervisor | None = None

    def open(self, given: MachineSetup, files: Mapping[str, bytes]) -> None:
        """Check that this machine can do the run.

        Raises
        ------
        BackendError
            The machine does not see the source or the output, or has another version of purifyctl.
        BundleError
            The engine does not fit the machine.
        """
        here = os.uname().nodename
        setup = given.setup
        if given.version != purifyctl.__version__:
            raise BackendError(
                f"{here} has purifyctl {purifyctl.__version__}, and the run was started by {given.version}.",
                hint="install the same version on every machine of the cluster",
            )
        writes_here = setup.options.image_format is not None and not setup.options.images_to
        if writes_here and (not given.marker.is_file() or file_sha256(given.marker) != given.marker_sha256):
            raise BackendError(
                f"{setup.out} on {here} is not the folder that the run was begun in.",
                hint="choose an --out on storage that all machines share",
            )
        if given.probe is not None:
            try:
                open_source(setup.source).read(given.probe)
            except (ImageError, ConfigError, MissingDependencyError) as error:
                raise BackendError(
                    f"{here} cannot read {printable(given.probe.path)}, which can be read where the run was started: "
                    f"{error}",
                    hint="put the source on storage that all machines share, or give them all the credentials",
                ) from None
        # a folder of its own: file names in it come from process numbers, and two machines may have the same numbers
        partial = setup.partial / f"{here}-{os.getpid()}"
        try:
            bundle = _bundle_here(setup.bundle, files)
            if writes_here:
                partial.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BackendError(f"{here} cannot write {error.filename}: {error.strerror}.", hint="check it") from None
        bundle.check_runs_here()
        self._supervisor = Supervisor(replace(setup, bundle=bundle, partial=partial), command=given.command or COMMAND)

    @ray.method(concurrency_group="feed")  # type: ignore[untyped-decorator]
    def feed(self, batch: InputBatch | None) -> None:
        """Take one more batch. None: there are no more."""
        self._batches.put(batch)

    def process(self) -> Iterator[Any]:
        """Yields first the worker's `Ready`, then batches that are done, without their inputs, and their rows."""
        assert self._supervisor is not None
        yield self._supervisor.start()
        for batch, rows in self._supervisor.process(iter(self._batches.get, None)):
            yield replace(batch, inputs=()), rows


def _bundle_here(bundle: Bundle, files: Mapping[str, bytes]) -> Bundle:
    """The user's bundle on this machine: it lies here already, or is written from the files that came along.

    The machine where the run was started has checked that the user trusts it.
    """
    with suppress(PurifyctlError, OSError):
        here = load_bundle(bundle.path)
        if here.sha256 == bundle.sha256:
            return load_bundle(bundle.path, trusted=True)
    folder = cache_folder() / "bundles" / bundle.sha256
    for name, data in files.items():
        if not (folder / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(folder / name, data, temporary=folder.parent)  # another actor may be reading it
    return load_bundle(folder, trusted=True)
