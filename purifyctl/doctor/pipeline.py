"""Checks of decoding, of the weights that come with purifyctl, and of an engine bundle."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from purifyctl.doctor.check import Check, attempt, failure
from purifyctl.errors import PurifyctlError

if TYPE_CHECKING:  # each check imports what it needs itself: a library that is missing is a finding
    from purifyctl.engine.bundle import Bundle
    from purifyctl.images import Decoder

FORMATS = ("JPEG", "PNG", "WebP", "TIFF", "BMP", "JPEG2000")
COLOUR = (200, 100, 50)  # RGB of the image that is decoded
COLOUR_ERROR = 4  # grey levels that lossy formats may be off by


def decoding() -> Iterator[Check]:
    """DALI decodes every format, as `run` does it: on the CPU, and on a GPU for engines that run there."""
    yield from _decode_all("cpu", None)
    import torch

    if torch.cuda.is_available():
        yield from _decode_all("gpu", 0)


def _decode_all(device: str, device_id: int | None) -> Iterator[Check]:
    from purifyctl.images import Decoder

    fix = "pip install --force-reinstall nvidia-dali-cuda130"
    with Decoder(size=32, batch_size=1, threads=1, device_id=device_id) as decoder:
        for kind in FORMATS:
            check_id = f"decoding.{device}.{kind.lower()}"
            yield attempt(check_id, _decode, decoder, kind, needed=device_id is None, fix=fix)


def _decode(decoder: "Decoder", kind: str) -> str:
    from purifyctl.engine.backends import to_host

    off = abs(to_host(_decoded(decoder, kind)).astype(int) - COLOUR).max()
    if off > COLOUR_ERROR:
        raise PurifyctlError(f"{kind} is decoded to other colours: {off} grey levels off")
    return kind


def _decoded(decoder: "Decoder", kind: str) -> Any:
    """A small image of one colour, encoded as `kind` and decoded: `Decoded.images`, with n = 1."""
    import numpy as np
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (48, 32), COLOUR).save(buffer, kind)
    decoded = decoder.decode([np.frombuffer(buffer.getvalue(), np.uint8)])
    for error in decoded.errors.values():
        raise PurifyctlError(f"{kind}: {error}")
    return decoded.images


def weights(*, needed: bool) -> Iterator[Check]:
    """The shipped purifier and its classifier load."""
    yield attempt("weights.purifier", _purifier, needed=needed, fix="pip install --force-reinstall purifyctl")
    yield attempt(
        "weights.classifier", _classifier, needed=needed, fix="pip install --force-reinstall 'purifyctl[demo]'"
    )


def _purifier() -> str:
    from purifyctl.checkpoint import load_purifier
    from purifyctl.shipped import shipped_checkpoint

    purifier = load_purifier(shipped_checkpoint())
    return f"shipped purifier ({purifier.network.kind}), SHA-256 {purifier.sha256[:12]}"


def _classifier() -> str:
    from purifyctl.classifiers import load_classifier
    from purifyctl.config.classifier import CLASSIFIER, WEIGHTS

    return load_classifier(CLASSIFIER, WEIGHTS).name


def engine(path: Path) -> Iterator[Check]:
    """A bundle is undamaged, and each of its networks runs here."""
    from purifyctl.engine.bundle import load_bundle

    try:
        bundle = load_bundle(path)
    except Exception as error:
        yield failure("engine.bundle", error)
        return
    manifest = bundle.manifest
    targets = sorted({target for network in manifest.networks.values() for target in network.plans})
    plans = f", plans for {', '.join(targets)}" if targets else ""
    yield Check("engine.bundle", "ok", f"{path}: {manifest.backend} {manifest.precision}{plans}")
    for network in manifest.networks:
        yield attempt(f"engine.runs.{network}", _infer, bundle, network, fix=bundle.rebuild)


def _infer(bundle: "Bundle", network: str) -> str:
    """Decode an image on the network's device, and run the network. Opening it refuses a GPU that has no plan."""
    from purifyctl.images import Decoder

    size = bundle.manifest.image_size
    with (
        bundle.open(network) as runner,
        Decoder(size=size, batch_size=1, threads=1, device_id=runner.device_id) as decoder,
    ):
        runner.infer(_decoded(decoder, "JPEG"))
    return network
