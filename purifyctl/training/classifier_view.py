"""What the classifier sees of a training image."""

from torch import Tensor, nn

from purifyctl.attacks import Model
from purifyctl.classifiers import Classifier
from purifyctl.config import TrainConfig


def classifier_view(classifier: Classifier, config: TrainConfig) -> Model:
    """The classifier on training images: on all of them, or on its own crop from the centre, as the recipe says.

    With `in_use`, an image is resized first by the factor that an engine for squares of `resize` pixels has.
    """
    if config.classifier_sees == "centre":
        return classifier
    if config.classifier_sees == "in_use" and classifier.fixed and classifier.input_size != (config.image_size,) * 2:
        return classifier  # it takes one size only: its own crop
    scale = classifier.scale_in(config.resize) if config.classifier_sees == "in_use" else 1.0
    if scale == 1:
        return classifier.logits

    def resized(x: Tensor) -> Tensor:
        size = round(x.shape[-2] * scale), round(x.shape[-1] * scale)
        return classifier.logits(nn.functional.interpolate(x, size, mode="bilinear", align_corners=False))

    return resized


def validation_view(classifier: Classifier, config: TrainConfig) -> Model:
    """The classifier on held-out photographs, squares of `validation_size` pixels."""
    return classifier if config.classifier_sees == "in_use" else classifier_view(classifier, config)


def validation_size(config: TrainConfig) -> int:
    """The side, in pixels, of the squares that held-out photographs become."""
    return config.resize if config.classifier_sees == "in_use" else config.image_size
