"""The bundled MNIST digits as tensors: 9,000 to train with, 1,000 held out."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

DIGITS_FILE = Path(__file__).with_name("digits.npz")
HELD_OUT = 100  # of each class, the last ones in the file
MEAN, DEVIATION = 0.1307, 0.3081  # of the pixels of the full training set, which every MNIST tutorial normalises by


class Split(NamedTuple):
    """Images, uint8 `[count, 28, 28]` with white ink on black, and their labels, int64 `[count]`."""

    images: torch.Tensor
    labels: torch.Tensor


class Digits(NamedTuple):
    """The two parts of a set of digits; no image is in both."""

    train: Split
    test: Split


def load_digits(path: Path = DIGITS_FILE) -> Digits:
    """Read the bundled digits; the held-out ones are the last `HELD_OUT` of each class."""
    with np.load(path) as arrays:
        images, labels = arrays["images"], arrays["labels"].astype(np.int64)
    held_out = np.zeros(len(labels), dtype=bool)
    for digit in np.unique(labels):
        held_out[np.flatnonzero(labels == digit)[-HELD_OUT:]] = True
    return Digits(
        train=Split(torch.from_numpy(images[~held_out]), torch.from_numpy(labels[~held_out])),
        test=Split(torch.from_numpy(images[held_out]), torch.from_numpy(labels[held_out])),
    )


def download_digits(folder: Path) -> Digits:
    """Fetch the full set (60,000 and 10,000 digits) with torchvision into `folder`, or read it there."""
    from torchvision.datasets import MNIST

    parts = (MNIST(str(folder), train=train, download=True) for train in (True, False))
    return Digits(*(Split(part.data, part.targets) for part in parts))


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Turn uint8 images `[count, 28, 28]` into the model's input, float32 `[count, 1, 28, 28]`."""
    return (images.unsqueeze(1).float() / 255 - MEAN) / DEVIATION
