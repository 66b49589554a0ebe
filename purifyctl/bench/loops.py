"""The loops that a user would write without this tool: photographs in, purified files out."""

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torchvision.transforms import v2

from purifyctl.bench.networks import Networks
from purifyctl.bench.peers import refusal
from purifyctl.config.bench import Loop
from purifyctl.config.formats import ImageFormat
from purifyctl.engine.backends.openvino import core as openvino_core
from purifyctl.engine.graphs import Graph, export_onnx
from purifyctl.images import encode
from purifyctl.photographs import Pixels

OPENVINO_NAMES = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}  # its precisions


@dataclass(frozen=True)
class UserLoop:
    """One loop, ready to run."""

    precision: str  # of its networks
    images_per_s: Callable[[Sequence[Path]], float]  # reads these files, and writes as many


def open_loop(
    name: Loop, networks: Networks, *, image_size: int, batch: int, image_format: ImageFormat, device: str
) -> UserLoop:
    """A loop with these networks. It encodes as we do: both write the same kind of files.

    Parameters
    ----------
    name
        `loop`: torchvision's transforms and torch eager. `loop-compile`: the same, compiled by torch.
        `loop-openvino`: Pillow and OpenVINO with its defaults, such as the precision that it takes by itself.

    Raises
    ------
    BackendError
        torch cannot compile here.
    """
    if name == "loop-openvino":
        precision, purify = _by_openvino(networks, image_size, batch)
        square: Callable[[Image.Image], Any] = partial(
            ImageOps.fit, size=(image_size, image_size), method=2
        )  # bilinear
    else:
        precision, purify = "fp32", _by_torch(networks, device, compiled=name == "loop-compile")
        square = v2.Compose([v2.Resize(image_size, antialias=True), v2.CenterCrop(image_size)])
    try:
        purify(np.zeros((batch, image_size, image_size, 3), np.uint8))  # what is slow only once
    except RuntimeError as error:
        raise refusal(name, error) from None
    return UserLoop(precision, partial(_run, purify, square, batch, image_format))


def _run(
    purify: Callable[[Pixels], Pixels],
    square: Callable[[Image.Image], Any],
    batch: int,
    image_format: ImageFormat,
    files: Sequence[Path],
) -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        for i in range(0, len(files), batch):
            images = [square(Image.open(file).convert("RGB")) for file in files[i : i + batch]]
            for k, image in enumerate(purify(np.stack([np.asarray(image) for image in images]))):
                (Path(folder) / f"{i + k}.{image_format}").write_bytes(encode(image, image_format))
        return len(files) / (time.perf_counter() - start)


def _by_torch(networks: Networks, device: str, *, compiled: bool) -> Callable[[Pixels], Pixels]:
    def ready(graph: Graph) -> Any:
        return torch.compile(graph) if compiled else graph

    purifier = ready(networks.purifier)
    classifier = ready(networks.classifier) if networks.classifier else None

    @torch.inference_mode()
    def purify(images: Pixels) -> Pixels:
        purified = purifier(torch.from_numpy(images).to(device))
        if classifier is not None:  # a compiled one has no truth value
            classifier(purified).topk(5)
        made: Pixels = purified.cpu().numpy()
        return made

    return purify


def _by_openvino(networks: Networks, image_size: int, batch: int) -> tuple[str, Callable[[Pixels], Pixels]]:

    core = openvino_core()
    compiled: list[Any] = []
    with tempfile.TemporaryDirectory() as folder:
        for graph in (networks.purifier, networks.classifier):
            if graph is not None:
                file = Path(folder) / f"{len(compiled)}.onnx"
                export_onnx(copy.deepcopy(graph).cpu(), file, image_size)
                model = core.read_model(file)
                model.reshape([batch, image_size, image_size, 3])
                compiled.append(core.compile_model(model, "CPU"))

    def purify(images: Pixels) -> Pixels:
        purified: Pixels = compiled[0](images)[0]
        for classifier in compiled[1:]:
            np.argsort(classifier(purified)[0])[:, -5:]
        return purified

    taken = compiled[0].get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return OPENVINO_NAMES.get(taken, taken), purify
