"""An ONNX graph as a torch module: run by ONNX Runtime, or converted to torch layers where gradients are needed."""

import contextlib
import io
import warnings
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn

from purifyctl import console
from purifyctl.classifiers.answers import first_line
from purifyctl.errors import WeightsError

if TYPE_CHECKING:  # it imports this module
    from purifyctl.classifiers.onnx_file import OnnxClassifier

PACKAGE, EXTRA = "onnx2pytorch", "onnx-classifier"
_AGREE = 1e-3  # of the largest logit: the most that a conversion may differ by
_WITHOUT = "What needs none still works: run, build-engine, attack --attack square."


class SessionNet(nn.Module):
    """A graph that ONNX Runtime runs on the CPU: without gradients.

    Parameters
    ----------
    why
        Why there are none, and what to do.
    """

    def __init__(self, graph: "OnnxClassifier", why: str = "") -> None:
        super().__init__()
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(
            graph.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self._graph, self._why = graph, why

    def forward(self, x: Tensor) -> Any:
        """Normalised RGB NCHW -> the graph's only output, or a dictionary of its outputs."""
        if self._why and x.requires_grad and torch.is_grad_enabled():
            raise WeightsError(f"{self._graph.file} has no gradients here: {self._why}", hint=_WITHOUT)
        given = as_graph_input(self._graph, x.detach()).cpu().numpy()
        names = [output.name for output in self._session.get_outputs()]
        found = self._session.run(names, {self._graph.input: given})
        answers = {name: _tensor(value, x.device) for name, value in zip(names, found, strict=True)}
        return answers if len(answers) > 1 else answers[names[0]]

    def __deepcopy__(self, _: dict[int, Any]) -> Self:
        return self  # nothing in it changes


def _tensor(value: Any, device: torch.device) -> Any:
    if not isinstance(value, np.ndarray):
        return value
    made = torch.from_numpy(value).to(device)
    return made.float() if made.dtype == torch.float16 else made


class ConvertedNet(nn.Module):
    """A graph that was converted to torch layers."""

    def __init__(self, graph: "OnnxClassifier", net: nn.Module) -> None:
        super().__init__()
        self._graph, self.net = graph, net

    def forward(self, x: Tensor) -> Tensor:
        """Normalised RGB NCHW -> logits [N, classes]."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the converter's layers warn of how they index
            logits: Tensor = self.net(as_graph_input(self._graph, x))
        return logits


def as_graph_input(graph: "OnnxClassifier", x: Tensor) -> Tensor:
    """Normalised RGB NCHW in the layout and type of the graph's input."""
    x = x.permute(0, 2, 3, 1) if graph.nhwc else x
    return x.to(torch.float16 if graph.half else torch.float32)


def with_gradients(graph: "OnnxClassifier") -> nn.Module:
    """The graph as torch layers, if they compute the same; otherwise as a `SessionNet`, which says why not."""
    exact = SessionNet(graph)
    try:
        from onnx2pytorch import ConvertModel
    except ImportError:
        return SessionNet(graph, f"torch cannot run it without a converter: pip install 'purifyctl[{EXTRA}]'.")
    x = torch.rand(3, 3, *graph.size, generator=torch.Generator().manual_seed(1))
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            net = ConvertedNet(graph, ConvertModel(graph.model, experimental=True).eval())
            x.requires_grad_()
            found = net(x)
            found.sum().backward()
    except Exception as error:  # the converter raises many kinds
        why = f"{PACKAGE} cannot convert it ({first_line(error)}). Give the network as --classifier module:function."
        return SessionNet(graph, why)
    expected = exact(x.detach())
    difference = float((found.detach() - expected).abs().max() / expected.abs().max().clamp_min(1e-6))
    if not difference <= _AGREE or x.grad is None or not float(x.grad.abs().max()) > 0:  # not <=: NaN
        why = f"what {PACKAGE} makes of it differs by {difference:.2g} of the largest logit, or has no gradient."
        return SessionNet(graph, f"{why} Give the network as --classifier module:function.")
    console.detail(f"{graph.file} as torch layers: logits differ by {difference:.1g} of the largest.")
    return net.eval()
