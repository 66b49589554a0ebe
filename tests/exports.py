"""Exports of networks are shared by all tests of a session: what was exported once is copied.

Exporting takes about a second for each network, and many tests build an engine from the same few. A network is the same
if all that it holds is: classes, weights, settings, and the size of the images. So each network is exported for real
once. Commands in processes of their own export for real, too.
"""

import hashlib
import io
import os
import pickle
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import nn

from purifyctl.engine import graphs
from tests.warm import read_exporter_once

really_export = graphs._export


@contextmanager
def shared_in(folder: Path) -> Iterator[None]:
    """Keep exports in `folder`, which the processes of a test session share."""
    folder.mkdir(parents=True, exist_ok=True)

    def export(graph: nn.Module, path: Path, image_size: int) -> None:
        kept = folder / f"{_content(graph)}-{image_size}.onnx"
        if not kept.exists():
            read_exporter_once()
            really_export(graph, path, image_size)
            unfinished = kept.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
            shutil.copyfile(path, unfinished)
            unfinished.replace(kept)
        else:
            shutil.copyfile(kept, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graphs, "_export", export)
        yield


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
