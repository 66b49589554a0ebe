"""The graphs that the tests of the backends for GPUs build and run."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from purifyctl.config import NetworkConfig
from purifyctl.engine.graphs import FusedGraph, Precision, classifier_graph, export_onnx, gate_graph, purifier_graph
from purifyctl.nn.gate import GateNetwork
from tests import tiny

NETWORKS = ("residual", "unet", "classifier", "fused", "gate")
BATCH = 4


def graph(network: str, precision: Precision) -> nn.Module:
    if network == "classifier":
        return classifier_graph(tiny.classifier(), precision)
    if network == "gate":
        torch.manual_seed(0)
        return gate_graph(GateNetwork(width=6).eval(), precision)
    if network == "fused":
        return FusedGraph(graph("residual", precision), graph("classifier", precision))
    unet = NetworkConfig(kind="unet", width=4, depth=6)
    return purifier_graph(tiny.purifier(unet if network == "unet" else tiny.NETWORK), precision)


def written(folder: Path, write: Callable[[nn.Module, Path, int], None], ending: str) -> dict[str, Path]:
    """A file of every network in FP16, by the network's name."""
    files = {network: folder / f"{network}.{ending}" for network in NETWORKS}
    for network, file in files.items():
        write(graph(network, "fp16"), file, tiny.SIZE)
    return files


@pytest.fixture(scope="module")
def onnx_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Every network in FP16. Read only."""
    return written(tmp_path_factory.mktemp("onnx"), export_onnx, "onnx")


def check(made: Sequence[np.ndarray], reference: Sequence[np.ndarray]) -> None:
    """FP16 lies within 2 grey levels or a hundredth of a probability of FP32."""
    for output, expected in zip(made, reference, strict=True):
        assert output.shape == expected.shape
        assert output.dtype == expected.dtype
        assert np.abs(output.astype(float) - expected).max() <= (2 if expected.dtype == np.uint8 else 0.01)
