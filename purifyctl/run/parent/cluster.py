"""`run --ray`: the same supervisor and worker, as actors on the machines of a Ray cluster.

Only the process that the user started commits: it sends each actor a limited number of batches and takes their rows
back. The actors write images, into the output that all machines share. If an actor is lost, the batches that it had in
hand are done again by others, or by the actor that takes its place.
"""

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

from purifyctl import console
from purifyctl.engine.bundle import Bundle
from purifyctl.engine.manifest import MANIFEST
from purifyctl.errors import BackendError, ConfigError, MissingDependencyError, PurifyctlError
from purifyctl.run.messages import InputBatch, MachineSetup, Ready
from purifyctl.run.parent.devices import Batches, LostDeviceError
from purifyctl.run.rows import Row

PLACE_S = 120.0  # for Ray to place an actor, and for the actor to check its machine
# On Linux a fresh Ray listens on all interfaces, and anybody who reaches it can run code. "0" makes it listen on
# 127.0.0.1 alone, as on macOS and Windows, after which Ray has named the variable.
ON_LOOPBACK = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
AHEAD = 2  # batches per actor beyond its worker's window, so that it does not wait for the network
STARTS = 3  # this many actors lost in a row, with nothing done in between, stop the run


@contextmanager
def ray_devices(setup: MachineSetup, *, address: str, workers: int | None) -> Iterator[list["RayDevice"]]:
    """Connect to a cluster, or start one on this machine, and place the workers.

    Parameters
    ----------
    address
        As for `ray.init`. Empty: `$RAY_ADDRESS` if that is set, otherwise a fresh Ray on this machine.
    workers
        None: one per GPU of the cluster, or one per machine if the engine is for CPUs.

    Raises
    ------
    ConfigError
        There is no such cluster, or it has too little room for these workers.
    BackendError
        A worker does not start, or its machine lacks the source, the output or the bundle's library.
    """
    address = (
        address or os.environ.get("RAY_ADDRESS") or "local"
    )  # without an address, Ray looks for one that somebody left running here
    if address == "local" and "ray" not in sys.modules:  # Ray reads this while it is imported
        os.environ.setdefault(ON_LOOPBACK, "0")
    try:
        import ray
    except ImportError:
        raise MissingDependencyError("ray", needed_for="--ray", extra="ray") from None
    if address.startswith("ray://"):
        raise ConfigError(
            f"{address} is for Ray's client, which cannot stream results.",
            hint="start the run on a machine of the cluster, or as a job of it: --ray auto",
        )
    mine = not ray.is_initialized()
    if mine:
        _connect(address)
    devices: list[RayDevice] = []
    try:
        n, needs = _share_out(ray.nodes(), on_gpu=setup.setup.bundle.device == "cuda", workers=workers)
        files = ray.put(_files(setup.setup.bundle))
        devices += [RayDevice(setup, files, needs) for _ in range(n)]
        for device in devices:
            device.wait_until_placed()
        yield devices
    finally:
        for device in devices:
            device.close()
        if mine:
            ray.shutdown()


def _connect(address: str) -> None:
    import ray

    # the people who run a cluster decide whether it sends usage statistics
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray does not set an empty CUDA_VISIBLE_DEVICES for actors that ask for no GPU; it will stop doing so anyway
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options = {"include_dashboard": False} if address == "local" else {}
    try:
        ray.init(address=address, logging_level="ERROR", log_to_driver=True, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ConfigError(
            f"There is no Ray to work with at {address}: {error}",
            hint="check the address, and that both sides have the same versions of Ray and Python",
        ) from None


def _share_out(
    nodes: Sequence[Mapping[str, Any]], *, on_gpu: bool, workers: int | None
) -> tuple[int, dict[str, float]]:
    """How many workers there will be, and what each one asks Ray for.

    Raises
    ------
    ConfigError
        The cluster has too little room for them.
    """
    kind = "GPU" if on_gpu else "CPU"
    alive = [node["Resources"] for node in nodes if node["Alive"] and node["Resources"].get(kind, 0) >= 1]
    total = int(sum(resources[kind] for resources in alive))
    most = f"The cluster has {len(alive)} machines with a {kind}, {total} {kind}s in all"
    if not alive:
        raise ConfigError(
            f"{most}: no worker can be placed.",
            hint="build an engine for CPUs: purifyctl build-engine cpu" if on_gpu else "bring up machines first",
        )
    n = workers or (total if on_gpu else len(alive))
    if n > total:
        raise ConfigError(
            f"{most}: {n} workers cannot be placed.", hint=f"--workers {total}, or bring up machines first"
        )
    if on_gpu:
        return n, {"num_gpus": 1, "num_cpus": 1}
    per_machine = -(-n // len(alive))
    return n, {"num_cpus": max(1, int(min(resources["CPU"] for resources in alive)) // per_machine)}


def _files(bundle: Bundle) -> dict[str, bytes]:
    return {name: (bundle.path / name).read_bytes() for name in (MANIFEST, *bundle.manifest.files)}


class NoRoomError(BackendError):
    """Ray finds no place for a worker."""


class RayDevice:
    """An actor somewhere in the cluster. If it is lost, another one takes its place."""

    def __init__(self, setup: MachineSetup, files: Any, needs: Mapping[str, float]) -> None:
        self._setup, self._files, self._needs = setup, files, needs
        self._closed = False
        self.ready_at: float | None = None
        self.threads: Mapping[str, int] = {}
        self.under_way = 0.0  # unknown: a worker elsewhere sends only what is done
        self._actor, self._placed = self._begin()

    def _begin(self) -> tuple[Any, Any]:
        import ray

        from purifyctl.run.parent import ray_actor

        options = {**self._needs, "concurrency_groups": {"feed": 1}, "scheduling_strategy": "SPREAD"}
        actor = ray.remote(**options)(ray_actor.Purifier).remote()
        return actor, actor.open.remote(self._setup, self._files)

    def wait_until_placed(self) -> None:
        """Raises NoRoomError if Ray finds no place for the actor, BackendError if its machine cannot do the work."""
        import ray

        try:
            ray.get(self._placed, timeout=PLACE_S)
        except ray.exceptions.GetTimeoutError:
            wants = ", ".join(
                f"{n:g} {name.removeprefix('num_').removesuffix('s').upper()}" for name, n in self._needs.items()
            )
            free = ", ".join(f"{ray.available_resources().get(kind, 0):g} {kind}" for kind in ("CPU", "GPU"))
            raise NoRoomError(
                f"Ray has not placed a worker in {PLACE_S:.0f} s. It asks for {wants}; free in the cluster: {free}.",
                hint="wait for other jobs, or ask for fewer --workers",
            ) from None
        except ray.exceptions.RayTaskError as error:
            raise _cause(error) from None
        except ray.exceptions.RayActorError as error:
            raise BackendError(
                f"A worker did not start on its machine: {error}",
                hint="install the same purifyctl, with the same Python, on every machine of the cluster",
            ) from None

    def close(self) -> None:
        self._closed = True
        self._kill()

    def _kill(self) -> None:
        import ray

        with suppress(Exception):  # the actor is gone, or the whole cluster is
            ray.kill(self._actor)

    def process(self, batches: Batches) -> Iterator[tuple[InputBatch, list[Row]]]:
        """Rows of every batch, in the order in which they are done.

        Raises
        ------
        LostDeviceError
            The actor is gone, and Ray has no place for another.
        PurifyctlError
            As `Supervisor.process` raises; or one actor after another is lost.
        """
        import ray

        lost = 0
        while not self._closed:
            in_hand: dict[tuple[int, int], InputBatch] = {}  # by part and batch: the inputs that are still to do
            try:
                for done in self._stream(batches, in_hand):
                    lost = 0
                    yield done
                return
            except ray.exceptions.RayTaskError as error:
                raise _cause(error) from None
            except ray.exceptions.RayError as error:
                lost += 1
                batches.give_back(in_hand.values())
                self._replace(lost, error)

    def _replace(self, lost: int, why: Exception) -> None:
        """Get another actor, unless the run is over. `lost`: how many were lost in a row."""
        if self._closed:
            return
        if lost == STARTS:
            raise BackendError(f"{STARTS} Ray workers were lost in a row. The last one: {why}", hint="ray status")
        console.warn("A Ray worker was lost. What it had in hand is done again; Ray is asked for another one.")
        self._kill()
        self._actor, self._placed = self._begin()
        try:
            self.wait_until_placed()
        except NoRoomError as error:
            if not self._closed:
                console.warn(f"It is not replaced: {error.message}")
            raise LostDeviceError(error.message, hint=error.hint) from None

    def _stream(
        self, batches: Batches, in_hand: dict[tuple[int, int], InputBatch]
    ) -> Iterator[tuple[InputBatch, list[Row]]]:
        """The rows that one actor makes, as long as it lives."""
        import ray

        fed, ended = 0, False

        def feed() -> None:
            nonlocal fed, ended
            while fed < ready.window + AHEAD and not ended:
                batch = next(batches, None)
                self._actor.feed.remote(batch)
                if batch is None:
                    ended = True
                else:
                    fed += 1
                    in_hand[batch.part, batch.number] = batch

        stream = self._actor.process.remote()
        ready: Ready = ray.get(next(stream))
        self.threads, self.ready_at = ready.threads, self.ready_at or time.monotonic()
        feed()
        for reference in stream:
            done, rows = ray.get(reference)
            key = (done.part, done.number)
            left = _without(in_hand[key], set(done.positions))
            if left is None:
                del in_hand[key]
                fed -= 1
            else:
                in_hand[key] = left
            yield done, rows
            feed()


def _without(batch: InputBatch, positions: set[int]) -> InputBatch | None:
    """A batch without the inputs at these positions. None: no input is left."""
    left = [(p, one) for p, one in zip(batch.positions, batch.inputs, strict=True) if p not in positions]
    if not left:
        return None
    return replace(batch, positions=tuple(p for p, _ in left), inputs=[one for _, one in left])


def _cause(error: Any) -> Exception:
    """What was raised in the actor: an expected failure unchanged, a bug with the place where it happened."""
    return error.cause if isinstance(error.cause, PurifyctlError) else RuntimeError(str(error))
