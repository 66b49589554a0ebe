"""Which layers of a purifier stay in FP32 when the rest computes in BF16: the first one and the last one.

BF16 has eight significant bits. The first layer sees the picture, small differences on top of large values, and the
last one writes the correction: there rounding costs most (docs/adr/0034). The graph's metadata names the operators that
stay, and the backend reads it from there.
"""

from pathlib import Path

import onnx

from purifyctl.engine.quantize import purifier_nodes
from purifyctl.engine.tensors import KEPT_IN_FP32


def keep_ends_in_fp32(file: Path) -> None:
    """Name, in an exported graph, the operators up to the purifier's first convolution and from its last one on."""
    graph = onnx.load(file)
    nodes, convolutions = purifier_nodes(graph)
    if len(convolutions) > 2:
        first, last = nodes.index(convolutions[0]), nodes.index(convolutions[-2])  # what follows it belongs to the last
        nodes = nodes[: first + 1] + nodes[last + 1 :]
    graph.metadata_props.add(key=KEPT_IN_FP32, value=" ".join(nodes))
    onnx.save(graph, file)
