"""The same networks, unchanged, in other libraries; and the loop that one would script without this tool."""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from purifyctl.backends.onnxruntime import ONNXRuntimeRunner
from purifyctl.bench.engine import Pixels
from purifyctl.bundle import Bundle
from purifyctl.checkpoint import load_purifier, shipped_checkpoint
from purifyctl.classifiers import load_classifier
from purifyctl.errors import BackendError, ConfigError
from purifyctl.export import ClassifierGraph, FusedGraph, PurifierGraph, classifier_graph, export_onnx, purifier_graph
from purifyctl.images import list_images

Peer = Literal["torch", "torch-compile", "onnxruntime", "loop"]


@dataclass(frozen=True)
class Networks:
    """What a bundle was made from, in torch FP32."""

    purifier: PurifierGraph
    classifier: ClassifierGraph | None

    @property
    def together(self) -> PurifierGraph | FusedGraph:
        return FusedGraph(self.purifier, self.classifier) if self.classifier else self.purifier


def networks_of(bundle: Bundle, checkpoint: Path | None) -> Networks:
    """The networks that `bundle` was built from.

    Parameters
    ----------
    checkpoint
        The purifier's; None: the shipped one.

    Raises
    ------
    ConfigError
        The checkpoint is not the one that the bundle was built from.
    """
    networks = bundle.manifest.networks
    purifier = load_purifier(checkpoint or shipped_checkpoint())
    if purifier.sha256 != networks["purifier"].source:
        raise ConfigError(
            f"{bundle.path} was not built from {checkpoint or 'the shipped purifier'}; peers run the same network.",
            hint=f"pass the --checkpoint that it was built from: {bundle.manifest.rebuild}",
        )
    if "classifier" not in networks:
        return Networks(purifier_graph(purifier.net), None)
    name, source = networks["classifier"].name, networks["classifier"].source
    classifier = load_classifier(name, "" if source == "default weights" else source)
    return Networks(purifier_graph(purifier.net), classifier_graph(classifier))


@contextmanager
def peer(name: Peer, networks: Networks, images: Pixels, device: str) -> Iterator[Callable[[], object]]:
    """A call that purifies (and classifies) `images` in FP32, as that library does by default.

    Raises
    ------
    BackendError
        The library refuses.
    """
    with ExitStack() as stack:
        if name == "onnxruntime":
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            export_onnx(networks.together, folder / "together.onnx", images.shape[1])
            runner = stack.enter_context(ONNXRuntimeRunner(folder / "together.onnx"))
            yield lambda: runner.infer(images)
            return
        graph: nn.Module = networks.together.to(device)
        if name == "torch-compile":
            graph.compile()
        batch = torch.from_numpy(images).to(device)

        @torch.inference_mode()
        def call() -> None:
            graph(batch)
            if device == "cuda":
                torch.cuda.synchronize()

        try:
            call()
        except RuntimeError as error:  # torch.compile without a C++ compiler, too little memory
            raise BackendError(f"{name} cannot run these networks: {error}", hint=f"leave {name} out") from None
        yield call


def loop(
    photos: Path, networks: Networks, *, image_size: int, batch: int, image_format: str, n: int, device: str
) -> float:
    """Images/s of a plain loop over the first `n` photographs: Pillow, torchvision, torch FP32 eager, Pillow."""
    transform = v2.Compose([v2.Resize(image_size, antialias=True), v2.CenterCrop(image_size), v2.PILToTensor()])
    files = list_images(photos)[:n]
    purify = networks.purifier.to(device)
    classify = networks.classifier.to(device) if networks.classifier else None
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        start = time.perf_counter()
        for i in range(0, len(files), batch):
            opened = [Image.open(f.file).convert("RGB") for f in files[i : i + batch]]
            images = torch.stack([transform(image) for image in opened]).permute(0, 2, 3, 1).to(device)
            purified = purify(images)
            if classify:
                classify(purified).topk(5)
            for k, image in enumerate(purified.cpu().numpy()):
                Image.fromarray(image).save(Path(folder) / f"{i + k}.{image_format}")
        return len(files) / (time.perf_counter() - start)
