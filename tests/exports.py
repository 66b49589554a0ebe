"""What builds of engines have in common is shared by all tests of a session: exported networks, torch's references.

Exporting takes about a second for each network, and torch takes 20 for the reference of a full size; many tests build
an engine from the same few. A network is the same if all that it holds is: classes, weights, settings, and the size of
the images. So each network is exported, and each reference computed, for real once. Commands in processes of their own
do it for real, too.
"""

import hashlib
import io
import os
import pickle
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from purifyctl.engine import build, graphs
from tests.warm import read_exporter_once

really_export = graphs._export


@contextmanager
def shared_in(folder: Path) -> Iterator[None]:
    """Keep exports and references in `folder`, which the processes of a test session share."""
    folder.mkdir(parents=True, exist_ok=True)

    def export(graph: nn.Module, path: Path, image_size: int) -> None:
        kept = folder / f"{_content(graph)}-{image_size}.onnx"
        if not kept.exists():
            read_exporter_once()
            really_export(graph, path, image_size)
            _keep(kept, path.read_bytes())
        else:
            shutil.copyfile(kept, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "_export", export)
        for name in ("compute_reference", "measured_tiling"):
            patch.setattr(build, name, _once(getattr(build, name), folder))
        yield


def _once(compute: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    """`compute`, which is not computed again for networks and photographs that it was computed for."""

    def found(*given: object) -> Any:
        parts = [
            _content(part) if isinstance(part, nn.Module) else pickle.dumps(part).hex() if part is not None else ""
            for part in given
        ]
        kept = folder / f"{compute.__name__}-{hashlib.sha256(' '.join(parts).encode()).hexdigest()}"
        if not kept.exists():
            _keep(kept, pickle.dumps(compute(*given)))
        return pickle.loads(kept.read_bytes())

    return found


def _keep(file: Path, content: bytes) -> None:
    """Write a file that another process may read at any time."""
    unfinished = file.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
    unfinished.write_bytes(content)
    unfinished.replace(file)


def _content(graph: nn.Module) -> str:
    """SHA-256 of a network with all that it holds. A class of a test's own has no name to be found by: it is unique."""
    stream = io.BytesIO()
    try:
        torch.save(graph, stream)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        if "pickle" not in str(error):
            raise
        return os.urandom(32).hex()
    return hashlib.sha256(stream.getvalue()).hexdigest()
