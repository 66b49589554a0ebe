"""Compare what was built with torch: its plans if they run here, otherwise the graphs that they were made from."""

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from purifyctl import console
from purifyctl.config import BACKENDS, REFERENCE_BACKENDS, EngineConfig
from purifyctl.engine.backends import LOCAL, implementation, open_runner, plan_builder
from purifyctl.engine.graphs import Graph, export_onnx
from purifyctl.engine.locate import compare_layers, describe_layers
from purifyctl.engine.manifest import Network, Parity
from purifyctl.engine.parity import Reference, check_parity
from purifyctl.machine import gpu_capability

EXPLAINED = 4  # images that layers are compared on


def check_agreement(
    folder: Path, config: EngineConfig, networks: Mapping[str, Network], reference: Reference
) -> Parity:
    """Compare an engine with torch, at batch size 1 and at its own.

    Parameters
    ----------
    folder
        Holds the networks' files.
    reference
        What torch FP32 computes.

    Raises
    ------
    ParityError
        It does not agree within the tolerances.
    """
    backend, files, covers = _what_runs_here(config, networks)
    with ExitStack() as stack:
        runners = {
            name: stack.enter_context(
                open_runner(
                    backend,
                    folder / file,
                    precision=config.precision,
                    image_size=config.image_size,
                    batch_size=config.batch_size,
                )
            )
            for name, file in files.items()
        }
        figures, chains = check_parity(reference, runners, config.precision, (1, config.batch_size))
    library = f"{backend} {implementation(backend).version()}"
    return Parity(library, f"{covers}, on {len(reference.images)} photographs", figures, chains)


def _what_runs_here(config: EngineConfig, networks: Mapping[str, Network]) -> tuple[str, dict[str, str], str]:
    """The backend that can run the engine here, the file of each network, and which part of the engine this covers."""
    graphs = {name: network.onnx for name, network in networks.items()}
    plans = networks["purifier"].plans
    record = BACKENDS[config.backend]
    if not plans and record.device == "cuda" and not gpu_capability():
        return REFERENCE_BACKENDS[record.graph], graphs, "the graph only, on a CPU: there is no GPU here"
    if not plans:
        return config.backend, graphs, "the engine"
    here = LOCAL if LOCAL in plans else gpu_capability()
    if here not in plans:  # a plan needs its GPU; its graph runs anywhere
        return REFERENCE_BACKENDS[record.graph], graphs, "the graph only: its plans run on GPUs that are not here"
    others = f", not {', '.join(set(plans) - {here})}" if len(plans) > 1 else ""
    return (
        config.backend,
        {name: network.plans[here] for name, network in networks.items()},
        (f"the plan for {here}{others}"),
    )


def explain_differences(
    folder: Path, config: EngineConfig, references: Mapping[str, Graph], reference: Reference
) -> None:
    """Say where each network begins to differ from FP32. Plans do not show their layers: their graphs stand for them.

    Parameters
    ----------
    references
        The same networks in FP32, after the same rewrites.
    """
    backend = REFERENCE_BACKENDS["onnx"] if plan_builder(config.backend) else config.backend
    for name, graph in references.items():
        with tempfile.TemporaryDirectory() as temporary:
            file = Path(temporary) / "fp32.onnx"
            export_onnx(graph, file, config.image_size)
            images = reference.images[:EXPLAINED]
            layers = compare_layers(file, folder / f"{name}.onnx", images, backend=backend, precision=config.precision)
        console.note(f"{name}, {backend} {config.precision} against FP32: {describe_layers(layers, config.precision)}.")
