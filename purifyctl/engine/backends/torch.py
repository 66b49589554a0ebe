"""The torch network itself: the reference that every engine is compared with."""

from typing import Self

import torch
from torch import nn

from purifyctl.engine.backends import Batch


class TorchRunner:
    """Runs a graph of `purifyctl.engine.graphs` eagerly in FP32 on the CPU."""

    device_id: int | None = None
    concurrency = 1

    def __init__(self, graph: nn.Module) -> None:
        self._graph = graph.eval()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    @torch.inference_mode()
    def infer(self, images: Batch) -> tuple[Batch, ...]:
        made = self._graph(torch.from_numpy(images))
        return tuple(output.numpy() for output in (made if isinstance(made, tuple) else (made,)))
