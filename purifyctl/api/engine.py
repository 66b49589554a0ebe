"""An engine bundle, opened for images that are already in memory."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from purifyctl import devices
from purifyctl.api.pictures import Classified, Images, as_array, as_picture
from purifyctl.engine.backends import Batch, Runner, to_host
from purifyctl.engine.chain import Chain
from purifyctl.engine.chosen import chosen_bundle
from purifyctl.engine.default import default_engine
from purifyctl.engine.tiles import purify_whole
from purifyctl.errors import BackendError, ConfigError, InputError
from purifyctl.images.geometry import fit
from purifyctl.labels import Labels
from purifyctl.photographs import Pixels


class Engine:
    """A bundle of `purifyctl build-engine`, opened on the CPU or GPU that it is for. Use it in `with`, or close it.

    Images go in and come out as RGB uint8, with the pixels that `purifyctl run` writes. Threads may share an engine. It
    has no gradients; `purifyctl.Purifier` has.

    Parameters
    ----------
    bundle
        The bundle's folder. None: the shipped purifier and its classifier, as an engine that is built at first use and
        kept in the user's cache.
    trust
        Run this bundle, now and later, although it was built elsewhere. Engines are native code.
    batch_size
        Number of images in one call to the library, from 1 to the bundle's own batch size, which is the default.
        Smaller batches are filled up. So with 1, a single image takes a fraction of the time, and several images are
        spread over the cores.
    device
        "auto", "cpu", "cuda" or "cuda:N", as `--device`; of several GPUs the first. A bundle is for the CPU or for
        GPUs; beside one, it chooses among the GPUs.

    Raises
    ------
    BundleError
        The folder holds no bundle, or a changed one, or one that may not or cannot run here.
    BackendError, MissingDependencyError
        Its library is missing, or refuses the machine.
    ConfigError
        The bundle does not take this batch size, or is not for this device; or the device cannot be used.

    Examples
    --------
    >>> with purifyctl.Engine("engines/cpu") as engine:
    ...     purified = engine(images)  # uint8 [n, 256, 256, 3] -> the same
    ...     for (name, probability), *_ in engine.classify(images).top():
    ...         print(name, probability)
    """

    def __init__(
        self,
        bundle: str | PathLike[str] | None = None,
        *,
        trust: bool = False,
        batch_size: int | None = None,
        device: str = "auto",
    ) -> None:
        if bundle is None:
            self.bundle = default_engine(device=device)
        else:
            self.bundle = chosen_bundle(Path(bundle), trusted=trust, device=device)
        self._place = devices.place(device if self.bundle.device == "cuda" else "cpu", say=False)
        most = self.bundle.manifest.batch_size
        if batch_size is not None and not 1 <= batch_size <= most:
            raise ConfigError(
                f"batch_size is {batch_size}; {self.bundle.path} takes 1 to {most}.",
                hint="purifyctl build-engine --batch-size N, for more",
            )
        self._batch_size = batch_size or most
        self._lock = threading.Lock()
        self._runners: dict[str, Runner] = {}
        self._opened: ExitStack | None = ExitStack()  # None: closed
        self._threads = ThreadPoolExecutor(self._runner("purifier").concurrency, "purifyctl")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self._threads.shutdown()
        with self._lock:
            opened, self._opened = self._opened, None
            self._runners.clear()
        if opened is not None:
            opened.__exit__(*error)

    def close(self) -> None:
        """Free what the library holds. The engine cannot be used any more. Closing it again does nothing."""
        self.__exit__(None, None, None)

    @property
    def image_size(self) -> int:
        """Side of the square images that it takes, in pixels."""
        return self.bundle.manifest.image_size

    @property
    def labels(self) -> Labels:
        """Names of the classifier's classes; empty if they have none."""
        return self.bundle.labels

    def fit(self, image: Image.Image) -> Image.Image:
        """The square of a PIL image that `purifyctl run` shows to the engine: in the middle, upright as EXIF says.

        Returns mode RGB, `image_size` pixels wide and high. `run` decodes with another library than Pillow, whose
        rounding differs by less than half a grey level on average.
        """
        return fit(image, self.image_size)

    def whole(self, image: Pixels | Image.Image) -> Pixels:
        """Purify a whole picture of any size, in tiles, as `purifyctl run --size original` does.

        Parameters
        ----------
        image
            RGB uint8 [height, width, 3], or a PIL image of mode RGB.

        Returns
        -------
        NDArray[np.uint8]
            The purified picture, [height, width, 3]. To classify it: `engine.classify(engine.fit(picture),
            purify=False)`, with `picture` as a PIL image.

        Raises
        ------
        InputError
            Another shape, type or mode.
        ConfigError
            The purifier makes one drawing of a whole picture.
        BackendError
            As for a call.
        """
        purifier = self._chain(classify=False).purifier
        return purify_whole(
            as_picture(image),
            self.bundle.tiling,
            self._batch_size * purifier.concurrency,
            lambda tiles: self._in_batches(purifier.infer, tiles)[0],
        )

    def __call__(self, images: Images) -> Pixels:
        """Purify any number of images.

        Parameters
        ----------
        images
            RGB uint8 [n, size, size, 3] with `image_size` as size; or one image [size, size, 3]; or a PIL image of
            mode RGB, or a list of images. They are not resized; `fit` does that.

        Returns
        -------
        NDArray[np.uint8]
            The purified images, [n, size, size, 3]; for one image, [size, size, 3].

        Raises
        ------
        InputError
            Another size, type or mode.
        BackendError
            The library failed, or the engine was closed.
        """
        batch, alone = self._batch(images)
        (purified,) = self._in_batches(self._chain(classify=False).purifier.infer, batch)
        return purified[0] if alone else purified

    def classify(self, images: Images, *, purify: bool = True) -> Classified:
        """Purify images, and classify the result.

        Parameters
        ----------
        images
            As for a call. One image is a batch of one.
        purify
            False: classify the images unpurified.

        Raises
        ------
        ConfigError
            The bundle has no classifier.
        InputError, BackendError
            As for a call.
        """
        self._require("classifier", "--classifier NAME")
        batch, _ = self._batch(images)
        chain = self._chain(apart=not purify)
        if purify:
            batch, probabilities = self._in_batches(chain.run, batch)
        else:
            (probabilities,) = self._in_batches(lambda images: (chain.classify(images),), batch)
        return Classified(batch, probabilities, self.labels)

    def gate_scores(self, images: Images) -> NDArray[np.float32]:
        """The gate's score of each unpurified image: [n], the probability in [0, 1] that it was attacked. It is
        calibrated for a set in which half of the images are attacked.

        `engine.bundle.manifest.gate_thresholds` has the threshold for each false-positive rate. An attacker who knows
        the gate can get past it.

        Parameters
        ----------
        images
            As for a call. One image is a batch of one.

        Raises
        ------
        ConfigError
            The bundle has no gate.
        InputError, BackendError
            As for a call.
        """
        self._require("gate", "--gate shipped")
        (scores,) = self._in_batches(self._runner("gate").infer, self._batch(images)[0])
        return scores

    def _require(self, network: str, option: str) -> None:
        if network not in self.bundle.manifest.networks:
            raise ConfigError(
                f"{self.bundle.path} has no {network}.", hint=f"purifyctl build-engine {option} --out DIR"
            )

    def _runner(self, network: str) -> Runner:
        """One of the bundle's networks, opened at first use."""
        with self._lock:
            if self._opened is None:
                raise BackendError(f"The engine {self.bundle.path} was closed.", hint="open it anew: purifyctl.Engine")
            if network not in self._runners:
                with devices.current(self._place):
                    runner = self._opened.enter_context(self.bundle.open(network, self._batch_size))
                self._runners[network] = runner
            return self._runners[network]

    def _chain(self, *, classify: bool = True, apart: bool = False) -> Chain:
        """The bundle's chain. Its networks are opened at first use."""
        return Chain({name: self._runner(name) for name in self.bundle.chain(classify=classify, apart=apart)})

    def _in_batches(self, call: Callable[[Pixels], tuple[Batch, ...]], images: Pixels) -> tuple[NDArray[Any], ...]:
        """The outputs of `call` for any number of images. As many batches run at once as keep the device busy."""
        n, most = len(images), self._batch_size
        if n == 0:  # only a call shows how many classes there are
            images = np.zeros((1, self.image_size, self.image_size, 3), np.uint8)

        def infer(start: int) -> list[NDArray[Any]]:
            return [to_host(output) for output in call(images[start : start + most])]

        results = list(self._threads.map(infer, range(0, len(images), most)))
        return tuple(np.concatenate(outputs)[:n] for outputs in zip(*results, strict=True))

    def _batch(self, images: Images) -> tuple[Pixels, bool]:
        """The images as RGB uint8 [n, size, size, 3], and whether one image was given alone."""
        alone = isinstance(images, Image.Image) or (isinstance(images, np.ndarray) and images.ndim == 3)
        if isinstance(images, np.ndarray) and not alone:
            batch = self._checked(images, ["n"])
        else:
            several: Sequence[Any] = [images] if alone else images  # type: ignore[assignment]
            pixels = [self._pixels(image) for image in several]
            batch = np.stack(pixels) if pixels else np.empty((0, self.image_size, self.image_size, 3), np.uint8)
        return np.require(batch, requirements=["C", "W"]), alone  # some libraries require it

    def _pixels(self, image: Any) -> Pixels:
        return self._checked(as_array(image), [])

    def _checked(self, images: Pixels, batch: list[str]) -> Pixels:
        expected = [*batch, *(str(n) for n in (self.image_size, self.image_size, 3))]
        shape = list(images.shape)
        if len(shape) != len(expected) or shape[-3:] != [self.image_size, self.image_size, 3]:
            raise InputError(
                f"The engine takes images [{', '.join(expected)}]; these are {shape}.",
                hint="engine.fit(image) crops and resizes a PIL image as purifyctl run does",
            )
        if images.dtype != np.uint8:
            raise InputError(
                f"The engine takes uint8; these are {images.dtype}.",
                hint="(x * 255).round().astype(np.uint8), of floats in [0, 1]",
            )
        return images
