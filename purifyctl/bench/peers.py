"""Peers: the same networks, unchanged, in other libraries, on one batch again and again."""

import copy
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from purifyctl.bench.networks import Networks
from purifyctl.config import BACKENDS
from purifyctl.config.bench import Library, Peer
from purifyctl.engine.backends import open_runner
from purifyctl.engine.graphs import export_onnx
from purifyctl.errors import BackendError
from purifyctl.photographs import Pixels

PRECISION = "fp32"  # of all these peers


@contextmanager
def peer(name: Library, networks: Networks, images: Pixels, device: str) -> Iterator[Callable[[], object]]:
    """A call that purifies (and classifies) `images` in FP32, as that library does by default; ONNX Runtime on the CPU.

    Raises
    ------
    BackendError
        The library refuses.
    """
    if name in BACKENDS:
        n, size = images.shape[:2]
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "together.onnx"
            export_onnx(copy.deepcopy(networks.together).cpu(), file, size)
            with open_runner(name, file, precision="fp32", image_size=size, batch_size=n) as runner:
                yield lambda: runner.infer(images)
        return
    graph = torch.compile(networks.together) if name == "torch-compile" else networks.together
    batch = torch.from_numpy(images).to(device)

    @torch.inference_mode()
    def call() -> None:
        graph(batch)
        if device == "cuda":
            torch.cuda.synchronize(batch.device)

    try:
        call()
    except RuntimeError as error:  # torch.compile without a C++ compiler, too little memory
        raise refusal(name, error) from None
    yield call


def refusal(name: Peer, error: RuntimeError) -> BackendError:
    """What to say if a peer does not run here."""
    why = " ".join(str(error).split()).split(" Set TORCHDYNAMO_VERBOSE")[0][:300]
    hint = f"leave out --against {name}"
    if "C++ compiler" in why:
        hint = f"install g++, or {hint}"
    return BackendError(f"{name} cannot run these networks: {why.rstrip('.')}.", hint=hint)
