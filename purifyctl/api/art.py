"""The purifier as a defence of the Adversarial Robustness Toolbox (ART), so that ART's attacks see through it.

Importing this module imports ART, which comes with the extra "attacks". No other module does so.
"""

from typing import Any

from torch import Tensor

from purifyctl.api.purifier import Purifier
from purifyctl.errors import ConfigError, InputError, MissingDependencyError

try:
    from art.defences.preprocessor.preprocessor import PreprocessorPyTorch
except ImportError:
    raise MissingDependencyError(
        "adversarial-robustness-toolbox", needed_for="purifyctl.api.art", extra="attacks"
    ) from None


class ArtPurifier(PreprocessorPyTorch):  # type: ignore[misc]
    """A preprocessing defence for ART's PyTorch estimators.

    Gradients go through the purifier exactly. So an attack on an estimator with this defence is adaptive, and an attack
    on an estimator without it is gray-box.

    Parameters
    ----------
    purifier
        It moves to the device. None: the shipped purifier.
    clip_values
        Smallest and largest value of the images. The defence scales them to [0, 1] for the purifier, and back.
    channels_first
        True: images are NCHW, as in PyTorchClassifier; False: NHWC.
    apply_fit, apply_predict
        Purify the images that the estimator is trained with; the images that it predicts, or is attacked with.
    device_type
        "gpu", which is the CPU on a machine without a GPU, or "cpu". The same as the estimator's.

    Raises
    ------
    ConfigError
        `clip_values` are not a range.

    Examples
    --------
    >>> classifier = PyTorchClassifier(
    ...     model, loss, input_shape=(3, 224, 224), nb_classes=1000, clip_values=(0, 1),
    ...     preprocessing_defences=[ArtPurifier()],
    ... )
    >>> ProjectedGradientDescent(classifier, eps=8 / 255, eps_step=2 / 255).generate(x)
    """

    params = ["purifier", "clip_values", "channels_first"]  # noqa: RUF012 (ART's: what set_params may set)

    def __init__(
        self,
        purifier: Purifier | None = None,
        *,
        clip_values: tuple[float, float] = (0.0, 1.0),
        channels_first: bool = True,
        apply_fit: bool = False,
        apply_predict: bool = True,
        device_type: str = "gpu",
    ) -> None:
        super().__init__(device_type=device_type, is_fitted=True, apply_fit=apply_fit, apply_predict=apply_predict)
        self.purifier = purifier if purifier is not None else Purifier.from_checkpoint()
        self.clip_values = clip_values
        self.channels_first = channels_first
        self._check_params()

    def forward(self, x: Tensor, y: Any = None) -> tuple[Tensor, Any]:
        """Purify a batch, differentiably: floats within `clip_values`, [N, 3, height, width] or [N, height, width, 3].

        Raises
        ------
        InputError
            Another shape, or values on another scale than that of `clip_values`.
        """
        low, high = self.clip_values
        unit = (x - low) / (high - low)
        purified = self._purify(unit) * (high - low) + low
        return purified.to(x.dtype) if x.is_floating_point() else purified, y

    def _purify(self, unit: Tensor) -> Tensor:
        unit = unit.to(self.purifier.dtype)
        if self.channels_first:
            return self.purifier(unit)  # type: ignore[no-any-return]
        if unit.ndim != 4 or unit.shape[-1] != 3:
            raise InputError(f"The purifier takes RGB images [N, height, width, 3]; these are {list(unit.shape)}.")
        return self.purifier(unit.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # type: ignore[no-any-return]

    def _check_params(self) -> None:
        try:
            low, high = (float(value) for value in self.clip_values)
        except (TypeError, ValueError):
            low, high = 0.0, 0.0
        if not low < high:
            raise ConfigError(
                f"clip_values are {self.clip_values}; they must be two numbers, the smaller first.",
                hint="(0, 1) or (0, 255)",
            )
        self.purifier.to(self.device)
