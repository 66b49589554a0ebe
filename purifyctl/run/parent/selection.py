"""Which devices a run works on: those of this machine, or those of a cluster."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from purifyctl import devices
from purifyctl.engine.bundle import Bundle
from purifyctl.errors import ConfigError, ImageError
from purifyctl.files import file_sha256
from purifyctl.run.messages import MachineSetup, Setup
from purifyctl.run.parent.devices import Device
from purifyctl.run.parent.supervisor import Supervisor
from purifyctl.run.parent.worker_process import COMMAND
from purifyctl.run.plan import Plan
from purifyctl.sources import ImageFile, Source, open_source
from purifyctl.sources.store import RemoteFolder

PROBES = 5  # the machines of a cluster try to read the first of these inputs that can be read here


@contextmanager
def open_devices(setup: Setup, plan: Plan, marker: Path, command: tuple[str, ...]) -> Iterator[Sequence[Device]]:
    """What will work on the batches of a run.

    Parameters
    ----------
    marker
        A file in the run folder, by which other machines see that they have the same folder.
    command
        Starts a worker.

    Raises
    ------
    ConfigError
        There is no such cluster, or a password would be visible to it.
    BackendError
        A machine of the cluster cannot do the work.
    """
    options = setup.options
    if options.ray is None:
        yield [Supervisor(setup, gpu=gpu, command=command) for gpu in gpus(setup.bundle, options.device)]
        return
    from purifyctl.run.parent.cluster import ray_devices  # Ray is an extra

    source = open_source(setup.source)
    if source.has_secrets or (options.images_to and RemoteFolder(options.images_to).has_secrets):
        raise ConfigError(
            "Ray notes the words of commands, and a URL among them holds a password or a signature.",
            hint="give the credentials to all machines in their environment, as the protocol's library reads it",
        )
    machine_setup = MachineSetup(
        setup=setup,
        probe=_readable(plan, source),
        marker=marker,
        marker_sha256=file_sha256(marker),
        command=command if command != COMMAND else None,  # COMMAND names this machine's Python
    )
    with ray_devices(machine_setup, address=options.ray, workers=options.workers) as devices:
        yield devices


def gpus(bundle: Bundle, asked: str) -> list[int | None]:
    """The devices of this machine to work on: the GPUs that `--device` names, or the CPU.

    Without a GPU, the worker says what the engine lacks.
    """
    if bundle.device == "cpu":
        return [None]
    return list(devices.place(asked, say=False).gpus) or [None]


def _readable(plan: Plan, source: Source) -> ImageFile | None:
    """One of the first inputs, for other machines to try."""
    for one in plan.part(0).inputs[:PROBES]:
        with suppress(ImageError):
            source.read(one.image)
            return one.image
    return None
