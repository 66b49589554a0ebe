"""Several processes train one purifier: each takes its share of every batch.

    purifyctl train fit --processes 2 ...                                starts the others itself
    torchrun --nproc-per-node 8 -m purifyctl train paper ...             for machines that a scheduler starts together

Every process holds the same weights and takes the same steps, because gradients are averaged before each step. Only
the first process writes, validates and prints; the losses in its log are those of its share. On GPUs, batch norms (of
the U-Net and the discriminator) see the whole batch. On CPUs torch cannot do that, and each sees its share.
"""

import datetime
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import ProcessExitedException, ProcessRaisedException, start_processes

from purifyctl import console
from purifyctl.config import TrainConfig
from purifyctl.errors import ConfigError, TrainingError
from purifyctl.interrupt import drain_on_interrupt
from purifyctl.machine import keep_freed_memory

T = TypeVar("T")

_FAILURES = (ProcessRaisedException, ProcessExitedException)
LONGEST_WAIT = datetime.timedelta(hours=12)  # while the first process validates
LEAST_IMAGES = 2  # of a batch for each process on a CPU: with fewer, the classifier's layers are slower for each image


@dataclass(frozen=True)
class Workers:
    """This process and the number of processes that train together."""

    device: torch.device
    rank: int = 0
    count: int = 1
    started_here: bool = False  # by the first process, which alone listens to Ctrl-C then

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    def share(self, sampled: Tensor) -> Tensor:
        """This process's share of what was sampled for a whole batch."""
        return sampled[self.rank :: self.count]

    def synchronise_norms(self, net: nn.Module) -> nn.Module:
        """`net` with batch norms that see all processes' shares, where torch can do that."""
        if self.count == 1 or self.device.type == "cpu":
            return net
        synchronised: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(net)  # type: ignore[no-untyped-call]
        return synchronised

    def average_gradients(self, net: nn.Module) -> None:
        """Replace each gradient by its mean over the processes, in one exchange."""
        if self.count == 1:
            return
        gradients = [p.grad for p in net.parameters() if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.count
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def any_of(self, flag: bool) -> bool:
        """Whether any process says yes."""
        return bool(self.largest(int(flag)))

    def largest(self, number: float) -> float:
        """The largest of the processes' numbers. Waits for all of them."""
        return self.largest_of([number])[0]

    def largest_of(self, numbers: list[float]) -> list[float]:
        """`largest` of each of several numbers, in one exchange."""
        if self.count == 1:
            return numbers
        exchanged = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(exchanged, op=dist.ReduceOp.MAX)
        return [float(number) for number in exchanged]

    def gather(self, mine: dict[str, str]) -> dict[str, str]:
        """What all processes have found together."""
        if self.count == 1:
            return mine
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, mine)
        return {key: value for each in found for key, value in each.items()}

    @contextmanager
    def interrupts(self, promise: str) -> Iterator[threading.Event]:
        """`drain_on_interrupt` in the processes that listen; in the others, an event that is never set."""
        if self.started_here and not self.leads:
            yield threading.Event()
            return
        with drain_on_interrupt(promise) as event:
            yield event

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While the other processes wait for this one, it uses their cores, too."""
        before = torch.get_num_threads()
        torch.set_num_threads(_cores() if self.started_here else before)
        yield
        torch.set_num_threads(before)


def processes_that_pay(config: TrainConfig, gpus: Sequence[int] = ()) -> int:
    """How many processes train fastest: one for each of these GPUs; on a CPU one for each core, with images for each.

    A batch norm of the purifier or the discriminator would see less of the batch on a CPU, so there it is one.
    """
    if "LOCAL_RANK" in os.environ:  # torchrun has started them
        return 1
    gan = any(weights.get("gan") for weights in ({"gan": config.objective.gan}, *(p.objective for p in config.phases)))
    normalised = gan or config.network.kind == "unet"
    on_cpu = 1 if normalised else min(_cores(), config.batch_size // LEAST_IMAGES)
    most = len(gpus) or on_cpu
    return max((n for n in range(1, most + 1) if config.batch_size % n == 0), default=1)


def together(processes: int, function: Callable[[Workers], T], gpus: Sequence[int] = ()) -> T:
    """Call `function` in this many processes; returns what it returns in this one, which leads.

    Where torchrun started this process, it is one of torchrun's, and no other is started.

    Parameters
    ----------
    gpus
        The GPUs to train on, one for each process; none: the CPU.

    Raises
    ------
    ConfigError
        Both torchrun and the caller ask for several processes, or there are more of them than GPUs.
    TrainingError
        Another process failed.
    """
    if "LOCAL_RANK" in os.environ:  # torchrun sets it
        if processes > 1:
            raise ConfigError("torchrun has started the processes already.", hint="leave out --processes")
        device = _device(int(os.environ["LOCAL_RANK"]), gpus)
        dist.init_process_group(_exchange(device), timeout=LONGEST_WAIT)
        if dist.get_rank():
            console.hush()
        return _work(Workers(device, dist.get_rank(), dist.get_world_size()), function)
    device = _device(processes - 1, gpus)
    if processes == 1:
        if gpus:
            torch.cuda.set_device(device)
        return function(Workers(device))
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory(prefix="purifyctl-") as folder:  # a file that only this user can read, not a port
        meeting = Path(folder)
        # starts them at once; they import torch, which takes seconds, before they write that they are ready
        others: Any = start_processes(  # type: ignore[no-untyped-call]
            _other, (processes, meeting, function, gpus), processes - 1, join=False, daemon=True, start_method="spawn"
        )
        try:
            while len(list(meeting.glob("ready-*"))) < processes - 1:
                others.join(0)  # raises if one has failed
                time.sleep(0.05)
            result = _work(_join(0, processes, meeting, gpus), function)
            others.join(grace_period=60)
            return result
        except (RuntimeError, *_FAILURES) as error:
            _explain(others, error)
            raise
        finally:
            for process in others.processes:
                process.kill()
                process.join()
            if dist.is_initialized():  # after a failure
                dist.destroy_process_group()
            torch.set_num_threads(threads)


def _other(number: int, processes: int, meeting: Path, function: Callable[[Workers], Any], gpus: Sequence[int]) -> None:
    """One of the processes that `together` starts."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches them all; the first one decides what follows
    keep_freed_memory()
    console.configure(quiet=True)
    leader = os.getppid()
    (meeting / f"ready-{number}").touch()
    while not (meeting / "begin").exists():
        if os.getppid() != leader:
            return
        time.sleep(0.05)
    _work(_join(number + 1, processes, meeting, gpus), function)


def _device(rank: int, gpus: Sequence[int]) -> torch.device:
    """What one of the processes computes on. Raises ConfigError if there is no GPU for it."""
    if gpus and rank >= len(gpus):
        raise ConfigError(
            f"{rank + 1} processes cannot train on {len(gpus)} GPU{'s' * (len(gpus) > 1)}: each one needs its own.",
            hint=f"--processes {len(gpus)}",
        )
    return torch.device("cuda", gpus[rank]) if gpus else torch.device("cpu")


def _exchange(device: torch.device) -> str:
    """The backend of torch.distributed for a device."""
    return "nccl" if device.type == "cuda" else "gloo"


def _join(rank: int, processes: int, meeting: Path, gpus: Sequence[int]) -> Workers:
    """Meet the other processes. They talk over this machine's loopback device only."""
    if rank == 0:
        (meeting / "begin").touch()
    os.environ["GLOO_SOCKET_IFNAME"] = os.environ["NCCL_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(max(1, _cores() // processes))
    device = _device(rank, gpus)
    store = dist.FileStore(str(meeting / "store"), processes)  # type: ignore[attr-defined]
    dist.init_process_group(_exchange(device), store=store, rank=rank, world_size=processes, timeout=LONGEST_WAIT)
    return Workers(device, rank, processes, started_here=True)


def _work(workers: Workers, function: Callable[[Workers], T]) -> T:
    if workers.device.type == "cuda":
        torch.cuda.set_device(workers.device)
    result = function(workers)
    dist.destroy_process_group()  # not after an exception: processes could wait for each other
    return result


def _explain(others: Any, error: Exception) -> None:
    """If another process has failed, that is why this one cannot continue: raise what it said."""
    try:
        others.join(timeout=5)
    except _FAILURES as failure:
        error = failure
    if isinstance(error, _FAILURES):
        said = str(error).strip().splitlines()[-1]
        raise TrainingError(f"Another process of this training failed: {said}", hint="or try --processes 1") from error


def _cores() -> int:
    return len(os.sched_getaffinity(0))
