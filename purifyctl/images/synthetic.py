"""Computed images, for use without photographs."""

import numpy as np
from numpy.typing import NDArray


def natural_images(n: int, size: int, seed: int = 0) -> NDArray[np.uint8]:
    """Images with the statistics of photographs: colour noise whose amplitude falls as 1/frequency, and hard edges.

    Returns RGB uint8 [n, size, size, 3], the same for the same arguments.
    """
    rng = np.random.default_rng(seed)
    fy, fx = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    amplitude = 1 / np.maximum(np.hypot(fy, fx), 1 / size)
    images = np.empty((n, size, size, 3))
    for image in images:
        shared = rng.standard_normal((size, size, 1))  # the channels of photographs resemble each other
        noise = 0.8 * shared + 0.3 * rng.standard_normal((size, size, 3))
        image[:] = np.fft.irfft2(np.fft.rfft2(noise, axes=(0, 1)) * amplitude[..., None], s=(size, size), axes=(0, 1))
        image[:] = 128 + 50 * (image - image.mean()) / image.std()
        for _ in range(4):  # rectangles, because noise has no edges
            (top, bottom), (left, right) = (np.sort(rng.integers(0, size, 2)) for _ in range(2))
            image[top:bottom, left:right] += rng.normal(0, 40, 3)
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)
