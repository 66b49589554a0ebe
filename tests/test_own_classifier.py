"""A classifier of one's own: what is read from files, and what is said of a network that cannot be used."""

import sys
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto
from safetensors.torch import save_file
from torch import nn

from purifyctl.classifiers import Classifier, load_classifier
from purifyctl.config import ClassifierConfig
from purifyctl.errors import ConfigError, WeightsError
from tests import own_networks
from tests.own_networks import CLASSES, SIDE, Net, checkpoints, export, reshaped

X = torch.rand(4, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("own")


@pytest.fixture(scope="module")
def file(folder: Path) -> Path:
    return export(Net(), folder / "plain.onnx")


def said(capsys: pytest.CaptureFixture[str]) -> str:
    out = capsys.readouterr()
    return " ".join((out.out + out.err).split())


def own(change: str) -> Classifier:
    return load_classifier(f"tests.own_networks:{change}")


# weights


@pytest.mark.parametrize("form", checkpoints(Net().state_dict()))
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_every_form_of_a_checkpoint_gives_the_same_network(form: str, ending: str, tmp_path: Path) -> None:
    torch.manual_seed(9)
    trained = Net()
    nn.init.normal_(trained.fc.weight)
    held = checkpoints(trained.state_dict())[form]
    path = tmp_path / f"weights.{ending}"
    if ending == "pth":
        torch.save(held, path)
    else:  # it holds tensors alone, sorted by name
        inner = next((v for v in held.values() if isinstance(v, dict)), held)
        save_file({key: value.contiguous() for key, value in inner.items()}, path)
    classifier = load_classifier("tests.own_networks:plain", str(path))
    torch.testing.assert_close(classifier.logits(X), trained.eval()(X))


@pytest.mark.parametrize("name", ["resnet18", "tf_efficientnet_lite0"])
def test_the_number_of_classes_is_read_from_the_weights(name: str, tmp_path: Path) -> None:
    import timm
    import torchvision

    make = torchvision.models.resnet18 if name == "resnet18" else timm.models.tf_efficientnet_lite0
    net = make(num_classes=7)
    torch.save({"model": net.state_dict(), "classes": list("abcdefg")}, tmp_path / "mine.pth")
    classifier = load_classifier(ClassifierConfig(name, str(tmp_path / "mine.pth")))
    assert classifier(torch.rand(2, 3, 256, 256)).shape == (2, 7)
    assert classifier.labels.names == tuple("abcdefg")


def test_tensors_that_do_not_fit_are_named(tmp_path: Path) -> None:
    state = {key.replace("norm", "bn"): value for key, value in Net().state_dict().items()}
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"missing are 4 \(norm\.weight, .*unknown are 4 \(bn\.weight"):
        load_classifier("tests.own_networks:plain", str(tmp_path / "w.pth"))


@pytest.mark.filterwarnings("ignore:.*jit:FutureWarning", "ignore:.*jit:DeprecationWarning")
def test_files_that_are_programs_are_refused_and_say_what_they_are(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(Net().eval(), X), tmp_path / "script.pt")
    torch.save(Net(), tmp_path / "whole.pt")
    for name, words in (("script", "TorchScript program"), ("whole", "a pickle that needs code")):
        with pytest.raises(WeightsError, match=words) as caught:
            load_classifier("tests.own_networks:plain", str(tmp_path / f"{name}.pt"))
        assert "module:function" in caught.value.hint


def test_a_weights_file_alone_does_not_say_which_network_it_is_for() -> None:
    with pytest.raises(ConfigError, match=r"mine\.pth holds weights") as caught:
        ClassifierConfig("mine.pth")
    assert "--architecture" in caught.value.hint


# answers


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("pair", "answers 2 values; its logits are 0"),
        ("dictionary", "answers 2 values; its logits are 'logits'"),
        ("squares", "answers [3, 10, 1, 1]; its logits are that without the last two sides"),
    ],
)
def test_logits_in_wrappings_are_found_and_it_is_said(
    change: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier = own(change)
    assert words in said(capsys)
    torch.testing.assert_close(classifier.logits(X), Net().eval()(X))


def test_probabilities_are_not_put_through_a_second_softmax(capsys: pytest.CaptureFixture[str]) -> None:
    classifier = own("softmax")
    assert "answers probabilities" in said(capsys)
    torch.testing.assert_close(classifier.logits(X).softmax(1), Net().eval()(X).softmax(1))


def test_values_between_0_and_1_that_are_no_probabilities_get_a_warning(capsys: pytest.CaptureFixture[str]) -> None:
    own("sigmoid")
    assert "do not add up to 1" in said(capsys)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("not_numbers", "no numbers"),
        ("one_value", r"answers \[3\] for N = 3 images"),
        ("one_column", r"answers \[3, 1\] for N = 3 images"),
        ("two_pairs", r"answers 0: \[3, 10\], 1: \[3, 10\]"),
        ("TinySize", "does not take RGB images of 224x224 pixels: Input height doesn't match the model."),
    ],
)
def test_a_network_that_is_no_classifier_gets_one_clear_message(change: str, words: str) -> None:
    with pytest.raises(WeightsError, match=words) as caught:
        own(change)
    assert len(str(caught.value).splitlines()) == 2


def test_a_network_that_takes_one_size_gets_it(capsys: pytest.CaptureFixture[str]) -> None:
    classifier = own("OneSize")
    assert "takes only 224x224 pixels" in said(capsys)
    assert classifier.fixed
    assert classifier(torch.rand(2, 3, 256, 256)).shape == classifier.logits(torch.rand(2, 3, 160, 160)).shape == (2, 3)
    small = load_classifier(ClassifierConfig("tests.own_networks:TinySize", input_size=(28,)))
    assert small(torch.rand(2, 3, 256, 256)).shape == (2, 3)


# ONNX


def test_an_onnx_file_has_the_logits_and_the_gradients_of_its_network(file: Path) -> None:
    classifier = load_classifier(ClassifierConfig(str(file), mean=(0.5,), std=(0.25,)))
    assert (classifier.input_size, classifier.crop_pct, len(classifier.labels.names)) == ((SIDE, SIDE), 1.0, CLASSES)
    one, two = (X.clone().requires_grad_() for _ in range(2))
    logits, expected = classifier(one), Net().eval()((two - 0.5) / 0.25)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-5)
    logits.square().sum().backward()
    expected.square().sum().backward()
    torch.testing.assert_close(one.grad, two.grad, rtol=1e-3, atol=1e-5)


def test_a_fixed_batch_is_freed(folder: Path) -> None:
    classifier = load_classifier(str(export(Net(), folder / "one.onnx", batch=1)))
    torch.testing.assert_close(classifier.logits(X), Net().eval()(X), rtol=1e-4, atol=1e-5)


class OnlyOne(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(1, 3, -1)[:, :, :8].flatten(1)[:, :5].expand(x.shape[0], 5)


def test_a_graph_that_computes_for_one_picture_alone_is_refused(folder: Path) -> None:
    with pytest.raises(WeightsError, match="batches of"):
        load_classifier(str(export(OnlyOne(), folder / "only.onnx", batch=1)))


@pytest.mark.parametrize("nhwc", [False, True])
@pytest.mark.parametrize("kind", ["FLOAT", "UINT8"])
def test_other_layouts_and_whole_grey_levels_are_taken(file: Path, folder: Path, nhwc: bool, kind: str) -> None:
    path = reshaped(file, folder / f"{kind}{nhwc}.onnx", nhwc=nhwc, kind=getattr(TensorProto, kind))
    classifier = load_classifier(str(path))
    expected = Net().eval()(X * 255 if kind == "UINT8" else X)
    torch.testing.assert_close(classifier(X), expected, rtol=1e-3, atol=1e-4)


def test_names_in_the_file_name_the_classes(file: Path, folder: Path) -> None:
    model = onnx.load(file)
    names = {i: f"thing {i}" for i in range(CLASSES)}
    onnx.helper.set_model_props(model, {"names": str(names)})
    onnx.save(model, folder / "named.onnx")
    assert load_classifier(str(folder / "named.onnx")).labels.names == tuple(names.values())


@pytest.mark.parametrize("change", ["softmax", "squares", "dictionary"])
def test_what_an_onnx_file_answers_is_turned_into_logits(
    change: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    net = getattr(own_networks, change)()
    classifier = load_classifier(str(export(net, folder / f"{change}.onnx")))
    found = classifier.logits(X)
    expected = Net().eval()(X)
    if change == "softmax":
        assert "answers probabilities" in said(capsys)
        found, expected = found.softmax(1), expected.softmax(1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_an_onnx_file_that_cannot_be_used_is_refused_in_one_message(file: Path, folder: Path) -> None:
    (folder / "cut.onnx").write_bytes(file.read_bytes()[:200])
    onnx.save(onnx.load(file), folder / "outside.onnx", save_as_external_data=True, size_threshold=0)
    grey = onnx.load(file)
    grey.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 1
    onnx.save(grey, folder / "grey.onnx")
    for name, words in (
        ("cut", "cannot be read as ONNX|no valid ONNX"),
        ("outside", "weights in another file"),
        ("grey", "a classifier takes RGB images"),
        ("missing", "There is no file"),
    ):
        with pytest.raises(WeightsError, match=words):
            load_classifier(str(folder / f"{name}.onnx"))
    with pytest.raises(ConfigError, match="takes images of 32x32 pixels"):
        load_classifier(ClassifierConfig(str(file), input_size=(64,)))


def test_a_size_that_is_left_open_must_be_said(file: Path, folder: Path) -> None:
    model = onnx.load(file)
    for place in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[place].dim_param = f"side{place}"
    onnx.save(model, folder / "open.onnx")
    with pytest.raises(ConfigError, match="any size") as caught:
        load_classifier(str(folder / "open.onnx"))
    assert "--input-size" in caught.value.hint
    assert load_classifier(ClassifierConfig(str(folder / "open.onnx"), input_size=(48,))).input_size == (48, 48)


def test_without_the_converter_there_are_logits_and_gradients_say_what_is_missing(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnx2pytorch", None)
    classifier = load_classifier(str(file))
    torch.testing.assert_close(classifier.logits(X), Net().eval()(X), rtol=1e-4, atol=1e-5)
    with pytest.raises(WeightsError, match=r"purifyctl\[onnx-classifier\]") as caught:
        classifier(X.clone().requires_grad_())
    assert "square" in caught.value.hint
