"""Several processes train one purifier. torchrun starts them, and each takes its share of every batch.

    torchrun --nproc-per-node 8 -m purifyctl train paper --photos DIR --out runs/paper

Every process holds the same weights and takes the same steps, because gradients are averaged before each step. Only
the first process writes, validates and prints; the losses in its log are those of its share. On GPUs, batch norms (of
the U-Net and the discriminator) see the whole batch. On CPUs torch cannot do that, and each sees its share.
"""

import datetime
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from purifyctl import console

LONGEST_WAIT = datetime.timedelta(hours=12)  # while the first process validates


@dataclass(frozen=True)
class Workers:
    """This process and the number of processes that train together."""

    device: torch.device
    rank: int = 0
    count: int = 1

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

    def largest(self, number: int) -> int:
        """The largest of the processes' numbers. Waits for all of them."""
        if self.count == 1:
            return number
        numbers = torch.tensor(number, device=self.device)
        dist.all_reduce(numbers, op=dist.ReduceOp.MAX)
        return int(numbers)


@contextmanager
def join_workers() -> Iterator[Workers]:
    """The processes of this training: those that torchrun started, or this one alone."""
    on_gpu = torch.cuda.is_available()
    if "LOCAL_RANK" not in os.environ:  # torchrun sets it
        yield Workers(torch.device("cuda" if on_gpu else "cpu"))
        return
    device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo", timeout=LONGEST_WAIT)
    workers = Workers(device, dist.get_rank(), dist.get_world_size())
    if not workers.leads:
        console.hush()
    yield workers
    dist.destroy_process_group()  # not after an exception: processes could wait for each other
