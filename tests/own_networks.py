"""Classifiers as users have them: ONNX files and checkpoints of every form."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

SIDE, CLASSES = 32, 10


class Net(nn.Module):
    """A small network for pictures of any size."""

    def __init__(self, classes: int = CLASSES) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv, self.norm = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, classes)
        self.norm.running_mean.uniform_(-0.1, 0.1)
        self.norm.running_var.uniform_(0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


class Answering(nn.Module):
    """`Net`, whose answer is changed by `change`."""

    def __init__(self, change: Any) -> None:
        super().__init__()
        self.net, self.change = Net(), change

    def forward(self, x: Tensor) -> Any:
        return self.change(self.net(x))


def plain() -> nn.Module:
    return Net()


def pair() -> nn.Module:
    return Answering(lambda z: (z, z.mean(1)))


def dictionary() -> nn.Module:
    return Answering(lambda z: {"logits": z, "features": z[:, :, None, None].expand(-1, -1, 4, 4)})


def two_pairs() -> nn.Module:
    return Answering(lambda z: (z, z))


def squares() -> nn.Module:
    return Answering(lambda z: z[:, :, None, None])


def softmax() -> nn.Module:
    return Answering(lambda z: z.softmax(1))


def sigmoid() -> nn.Module:
    return Answering(torch.sigmoid)


def not_numbers() -> nn.Module:
    return Answering(lambda z: z * float("nan"))


def one_value() -> nn.Module:
    return Answering(lambda z: z[:, 0])


def one_column() -> nn.Module:
    return Answering(lambda z: z[:, :1])


class OneSize(nn.Module):
    """Takes 224x224 alone, and says so in many lines."""

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (224, 224):
            raise AssertionError("Input height doesn't match the model.\n" + "more\n" * 50)
        return x.mean((2, 3))


class TinySize(OneSize):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[-2:] != (28, 28):
            raise AssertionError("Input height doesn't match the model.\n" + "more\n" * 50)
        return x.mean((2, 3))


def checkpoints(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """The same weights in every form that trainings save them in."""
    lightning = {f"model.{key}": value for key, value in state.items()} | {"loss.weight": torch.ones(CLASSES)}
    return {
        "plain": dict(state),
        "model": {"model": dict(state), "epoch": 3},
        "net": {"net": dict(state), "acc": 0.9},
        "state_dict": {"state_dict": dict(state), "optimizer": {"lr": 0.1}},
        "model_state_dict": {"model_state_dict": dict(state)},
        "model_ema": {"model_ema": {f"module.{k}": v for k, v in state.items()} | {"n_averaged": torch.tensor(7)}},
        "lightning": {"state_dict": lightning, "pytorch-lightning_version": "2.5"},
        "data_parallel": {f"module.{key}": value for key, value in state.items()},
        "compiled": {f"_orig_mod.{key}": value for key, value in state.items()},
        "lightning_compiled": {"state_dict": {f"model._orig_mod.{key}": value for key, value in state.items()}},
        "backbone": {f"backbone.{key}": value for key, value in state.items()},
    }


def export(net: nn.Module, file: Path, *, batch: int | None = None, opset: int = 18, side: int = SIDE) -> Path:
    """`net` as an ONNX file. `batch`: it takes batches of this size alone."""
    x = torch.rand(batch or 2, 3, side, side)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = None if batch else ({0: torch.export.Dim("b", min=1, max=64)},)
        torch.onnx.export(
            net.eval(), (x,), str(file), dynamo=True, dynamic_shapes=shapes, opset_version=opset, external_data=False,
            verbose=False,
        )  # fmt: skip
    return file


def reshaped(source: Path, file: Path, *, nhwc: bool = False, kind: int = TensorProto.FLOAT) -> Path:
    """The graph behind a cast and a transposition, as exporters of other libraries write it."""
    model = onnx.load(source)
    image = model.graph.input[0]
    inner = image.name
    nodes, last = [], "pixels"
    if kind != TensorProto.FLOAT:
        nodes.append(helper.make_node("Cast", [last], ["as_float"], to=TensorProto.FLOAT))
        last = "as_float"
    if nhwc:
        nodes.append(helper.make_node("Transpose", [last], ["as_nchw"], perm=[0, 3, 1, 2]))
        last = "as_nchw"
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = last if name == inner else name
    sides = ["b", SIDE, SIDE, 3] if nhwc else ["b", 3, SIDE, SIDE]
    del model.graph.input[0]
    model.graph.input.insert(0, helper.make_tensor_value_info("pixels", kind, sides))
    for node in reversed(nodes):
        model.graph.node.insert(0, node)
    del model.graph.value_info[:]
    onnx.save(model, file)
    return file
