"""Networks and images small enough for a test."""

import io
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

import purifyctl
from purifyctl.checkpoint import save_purifier
from purifyctl.classifiers import Classifier
from purifyctl.config import BACKENDS, EngineConfig, NetworkConfig
from purifyctl.engine.build import build_engine
from purifyctl.engine.bundle import Bundle
from purifyctl.gate import save_gate
from purifyctl.images.synthetic import natural_images
from purifyctl.labels import Labels
from purifyctl.nn import build_purifier
from purifyctl.nn.gate import GateNetwork
from purifyctl.photographs import to_tensor

GPU = (pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU here"))
NETWORK = NetworkConfig(kind="residual", width=8, depth=2)
BACKEND = os.environ.get("PURIFYCTL_TEST_BACKEND", "openvino")  # what the tests' engines run on
ENDING = {"onnx": "onnx", "torch": "pt2"}[BACKENDS[BACKEND].graph]  # of its graphs' files
SIZE = 64  # pixels; of everything the tiny engine does


def needs_gpu(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test `gpu`, and skip it where there is none."""
    for mark in GPU:
        test = mark(test)
    return test


def classifier() -> nn.Module:
    """Ten classes of nothing in particular. Usable as `--classifier tests.tiny:classifier`."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 10),
    )


def animals() -> Classifier:
    """The same with names: folders `cats` and `dogs` give true labels."""
    names = ("cats", "dogs", *(f"class {i}" for i in range(2, 10)))
    return Classifier(classifier(), name="animals", labels=Labels(names), mean=(0.5,) * 3, std=(0.5,) * 3)


def birds() -> Classifier:
    """Another network with the classes of `animals`: a surrogate."""
    other = animals()
    torch.manual_seed(2)
    other.net[0].reset_parameters()
    return other


again = classifier  # the same one under another name


def purifier(network: NetworkConfig = NETWORK) -> nn.Module:
    """A purifier that visibly changes its input."""
    torch.manual_seed(0)
    net = build_purifier(network)
    if network.kind == "residual":
        nn.init.normal_(net.head[1].weight, 0, 0.02)
    if network.kind == "redraw":
        nn.init.normal_(net.patterns.weight, 0, 0.1)
    return net.eval()


def module(network: NetworkConfig = NETWORK) -> purifyctl.Purifier:
    """`purifier(network)` as Python programs have it, frozen."""
    return purifyctl.Purifier(purifier(network).requires_grad_(False), network.size_multiple).eval()


def batch(n: int = 3, size: int = SIZE) -> Tensor:
    """RGB NCHW float in [0, 1]."""
    return to_tensor(natural_images(n, size)).contiguous()


def checkpoint(folder: Path, network: NetworkConfig = NETWORK) -> Path:
    """`purifier(network)` on disk."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "purifier.safetensors"
    save_purifier(file, purifier(network), network, {"made": "by the tests"})
    return file


def gate(file: Path, images: NDArray[np.uint8]) -> Path:
    """A gate on disk that flags half of these images."""
    torch.manual_seed(0)
    net = GateNetwork(width=6).eval()
    with torch.no_grad():
        net.judge.weight *= 20
        scores = torch.sigmoid(net(to_tensor(images))).numpy()
    middle = float(np.median(scores))
    save_gate(file, net, {"0.01": middle, "0.05": middle / 2, "0.1": 0.0}, {"made": "by the tests"})
    return file


def bundle(folder: Path, backend: str = BACKEND) -> Bundle:
    """A bundle of all these networks, in `folder`, with what it was built from."""
    photographs = [np.asarray(photograph((SIZE, SIZE), seed)) for seed in range(20)]
    gate_file = gate(folder / "gate.safetensors", np.stack(photographs))
    config = EngineConfig(
        backend=backend,  # type: ignore[arg-type]
        image_size=SIZE,
        batch_size=4,
        classifier="tests.tiny:classifier",
        gate=str(gate_file),
    )
    return build_engine(config, checkpoint(folder / "run"), folder / "bundle")


def photograph(size: tuple[int, int] = (90, 60), seed: int = 0) -> Image.Image:
    """A smooth random picture, (width, height) in pixels."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def photographs(folder: Path, n: int, *, labelled: bool = False) -> Path:
    """`folder` with n small photographs; labelled: in turns in `dogs` and `cats`."""
    for i in range(n):
        file = folder / (("dogs", "cats")[i % 2] if labelled else "") / f"{i:0{len(str(n - 1))}}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(photograph(seed=i), "JPEG"))
    return folder


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    """`image` as a file of `kind` (Pillow's name)."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def hostile_files() -> dict[str, tuple[bytes, str]]:
    """Files that a folder of photographs can hold: name -> (bytes, status that its row must get)."""
    photo = photograph()
    jpeg = encoded(photo, "JPEG", quality=95)
    sideways = Image.Exif()
    sideways[274] = 6  # turn by 90 degrees
    deep = Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257)
    garbage = encoded(photo, "PNG")[:60] + np.random.default_rng(0).bytes(3000)
    return {
        "zero.jpg": (b"", "empty"),
        "truncated.jpg": (jpeg[: len(jpeg) // 2], "decode_failed"),
        "truncated.png": (encoded(photo, "PNG")[:-400], "decode_failed"),
        "garbage.png": (garbage, "decode_failed"),
        "text.jpg": (b"this is no image", "not_an_image"),
        "notes.txt": (b"nor is this", "not_an_image"),
        "moving.gif": (encoded(photo.convert("P"), "GIF"), "ok"),
        "other.jxl": (b"\xff\x0a" + bytes(40), "unsupported_format"),
        "huge.png": (encoded(Image.new("L", (12_000, 12_000)), "PNG"), "too_large"),
        "wide.png": (encoded(photo.resize((12_000, 20)), "PNG"), "ok"),
        "cmyk.jpg": (encoded(photo.convert("CMYK"), "JPEG"), "ok"),
        "grey.jpg": (encoded(photo.convert("L"), "JPEG"), "ok"),
        "deep.png": (encoded(deep, "PNG"), "ok"),
        "alpha.png": (encoded(photo.convert("RGBA"), "PNG"), "ok"),
        "palette.png": (encoded(photo.convert("P"), "PNG"), "ok"),
        "sideways.jpg": (encoded(photo, "JPEG", exif=sideways), "ok"),
        "really_a_png.jpg": (encoded(photo, "PNG"), "ok"),
        "photo.webp": (encoded(photo, "WEBP"), "ok"),
        "photo.tiff": (encoded(photo, "TIFF"), "ok"),
        "photo.bmp": (encoded(photo, "BMP"), "ok"),
        "photo.jp2": (encoded(photo, "JPEG2000"), "ok"),
        "photo.jpg": (jpeg, "ok"),
        "photo.png": (encoded(photo, "PNG"), "ok"),
    }
