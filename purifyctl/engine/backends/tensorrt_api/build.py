"""An ONNX graph to a plan."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from purifyctl.engine.backends.tensorrt_api.library import Library
from purifyctl.engine.tensors import INPUT
from purifyctl.errors import BackendError


@dataclass(frozen=True)
class Draft:
    """A parsed graph and how to build it. All of it has to live until the plan is built."""

    library: Library
    onnx_file: Path
    builder: Any
    network: Any
    parser: Any
    profile: Any  # the input's shapes
    config: Any  # of the builder; a flavour adds its own settings


def draft(library: Library, onnx_file: Path, shapes: tuple[tuple[int, ...], ...]) -> Draft:
    """Parse a graph, strongly typed.

    Parameters
    ----------
    shapes
        Smallest, usual and largest shape of the input, from `batches`.

    Raises
    ------
    BackendError
        The parser refuses the graph; its own words are in the message.
    """
    trt = library.trt
    builder = library.start(trt.Builder)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, library.logger)
    if not parser.parse_from_file(str(onnx_file)):
        reasons = "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors))
        raise BackendError(f"{library.name} cannot parse {onnx_file}: {reasons}")
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # on by default; would round an FP32 graph's products to 10 bits
    profile = builder.create_optimization_profile()
    profile.set_shape(INPUT, *shapes)
    config.add_optimization_profile(profile)
    return Draft(library, onnx_file, builder, network, parser, profile, config)


def batches(image_size: int, largest: int, smallest: int | None = None) -> tuple[tuple[int, ...], ...]:
    """The input's shapes for one batch size, or from `smallest` on: smallest, usual, largest.

    On a range, the plan that the RTX compiler makes differs from run to run.
    """
    high = (largest, image_size, image_size, 3)
    return ((smallest or largest), *high[1:]), high, high


def compile_plan(draft: Draft, target: str, *, hint: str) -> bytes:
    """Build the plan.

    Parameters
    ----------
    target
        What it is built for, in words.
    hint
        The next step if the builder refuses.

    Raises
    ------
    BackendError
        The builder refuses; its own words are in the message.
    """
    plan = draft.builder.build_serialized_network(draft.network, draft.config)
    if plan is None:
        raise BackendError(
            f"{draft.library.name} could not build {draft.onnx_file} for {target}: {draft.library.logger.reason()}",
            hint=hint,
        )
    return bytes(plan)
