"""Image classifiers by name, with their preprocessing inside: RGB NCHW float in [0, 1] -> logits.

mobilenet_v2, inception_v3, resnet101, ...    torchvision
tf_efficientnet_lite0, ...                    timm (any name torchvision does not have)
FILE.onnx                                     your own, as a graph
package.module:factory                        your own: factory() returns an nn.Module
"""

from purifyctl.classifiers.classifier import Classifier, fold_batch_norms, own_square
from purifyctl.classifiers.loading import load_classifier
from purifyctl.classifiers.onnx_file import OnnxClassifier
from purifyctl.classifiers.onnx_net import as_graph_input
from purifyctl.classifiers.weights import fit_state_dict, read_state_dict, weights_sha256

__all__ = [
    "Classifier",
    "OnnxClassifier",
    "as_graph_input",
    "fit_state_dict",
    "fold_batch_norms",
    "load_classifier",
    "own_square",
    "read_state_dict",
    "weights_sha256",
]
