"""What the classifier sees of a training image."""

from purifyctl.attacks import Model
from purifyctl.classifiers import Classifier
from purifyctl.config import TrainConfig


def classifier_view(classifier: Classifier, config: TrainConfig) -> Model:
    """The classifier on training images: on all of them, or on its own crop from the centre, as the recipe says."""
    return classifier if config.classifier_sees == "centre" else classifier.logits
