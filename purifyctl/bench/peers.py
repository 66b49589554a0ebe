"""Peers: the same networks, unchanged, in other libraries; and the loop that a user would write without this tool."""

import copy
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torchvision.transforms import v2

from purifyctl.checkpoint import load_purifier
from purifyctl.classifiers import load_classifier, weights_sha256
from purifyctl.config import BACKENDS, ClassifierConfig
from purifyctl.config.bench import Library
from purifyctl.config.formats import ImageFormat
from purifyctl.engine.backends import open_runner
from purifyctl.engine.bundle import Bundle
from purifyctl.engine.graphs import (
    ClassifierGraph,
    FusedGraph,
    Graph,
    PurifierGraph,
    classifier_graph,
    export_onnx,
    purifier_graph,
)
from purifyctl.errors import BackendError, ConfigError
from purifyctl.images import encode
from purifyctl.photographs import Pixels
from purifyctl.shipped import shipped_checkpoint


@dataclass(frozen=True)
class Networks:
    """The networks that a bundle was built from, in torch FP32."""

    purifier: PurifierGraph
    classifier: ClassifierGraph | None

    @property
    def together(self) -> Graph:
        """All networks that one image goes through, as one graph."""
        return FusedGraph(self.purifier, self.classifier) if self.classifier else self.purifier


def networks_of(bundle: Bundle, checkpoint: Path | None) -> Networks:
    """The networks that `bundle` was built from, on its device.

    Parameters
    ----------
    checkpoint
        The purifier's checkpoint. None: the shipped one.

    Raises
    ------
    ConfigError
        The checkpoint is not the one that the bundle was built from.
    """
    networks = bundle.manifest.networks
    purifier = load_purifier(checkpoint or shipped_checkpoint())
    if purifier.sha256 != networks["purifier"].sha256:
        raise ConfigError(
            f"{bundle.path} was not built from {checkpoint or 'the shipped purifier'}; peers run the same network.",
            hint=f"add --checkpoint {networks['purifier'].source}",
        )
    classifier = None
    if "classifier" in networks:
        about = networks["classifier"]
        net = load_classifier(bundle.manifest.classifier or ClassifierConfig(about.name, about.source))
        if weights_sha256(net) != about.sha256:
            raise ConfigError(f"The weights of {about.name} are no longer those that {bundle.path} was built from.")
        classifier = classifier_graph(net).to(bundle.device)
    return Networks(purifier_graph(purifier.net).to(bundle.device), classifier)


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
        raise BackendError(f"{name} cannot run these networks: {error}", hint=f"leave out --against {name}") from None
    yield call


def loop(
    files: list[Path], networks: Networks, *, image_size: int, batch: int, image_format: ImageFormat, device: str
) -> float:
    """Images/s of a plain loop of Pillow, torchvision and torch FP32 eager. It encodes as we do: both write the same
    files.
    """
    transform = v2.Compose([v2.Resize(image_size, antialias=True), v2.CenterCrop(image_size), v2.PILToTensor()])
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        start = time.perf_counter()
        for i in range(0, len(files), batch):
            opened = [Image.open(file).convert("RGB") for file in files[i : i + batch]]
            images = torch.stack([transform(image) for image in opened]).permute(0, 2, 3, 1).to(device)
            purified = networks.purifier(images)
            if networks.classifier:
                networks.classifier(purified).topk(5)
            for k, image in enumerate(purified.cpu().numpy()):
                (Path(folder) / f"{i + k}.{image_format}").write_bytes(encode(image, image_format))
        return len(files) / (time.perf_counter() - start)
