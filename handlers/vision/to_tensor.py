"""The end of torchvision's usual processing, ToTensor and Normalize, once for all images of a batch.

Both compute each number from one byte, so a batch gives the same numbers as its images one by one. But each takes
several calls of torch for an image, and for small images those cost more than the arithmetic. Large images are still
computed one after the other, so that the numbers of one step are in the processor's cache for the next.
"""

from __future__ import annotations

import functools
import math
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence

_MODES = ("L", "RGB")  # those with one byte a channel
_AT_ONCE = 2**18  # numbers, which take 1 MiB


@dataclass(frozen=True, eq=False)
class Pixels:
    """An image before the last steps: its bytes in the order channel, height, width."""

    content: bytes
    shape: tuple[int, int, int]


class Ending:
    """A processing in two parts: steps for each image, and ToTensor, perhaps with Normalize, for all of them."""

    def __init__(self, steps: Sequence[Any], last: Sequence[Any]) -> None:
        self._steps = steps
        self._last = last

    def begin(self, image: Any) -> Any:
        """Take a PIL image through the first steps. Return `Pixels`, or what the whole processing would return."""
        for step in self._steps:
            image = step(image)
        if getattr(image, "mode", "") not in _MODES:
            return self._finish_one(image)
        # Pillow splits channels faster than torch, whose kernels are fastest on contiguous numbers.
        bands = image.split()
        return Pixels(b"".join(band.tobytes() for band in bands), (len(bands), image.height, image.width))

    def finish(self, items: Sequence[Any]) -> Any:
        """Take images through the last steps.

        Return a tensor `[batch, channels, height, width]` if all are `Pixels` of one shape. Else return a list with a
        tensor `[channels, height, width]` for each `Pixels`, and other items as they are.
        """
        shapes = {item.shape if isinstance(item, Pixels) else None for item in items}
        if len(shapes) > 1 or None in shapes:
            return [self._to_tensor([item])[0] if isinstance(item, Pixels) else item for item in items]
        return self._to_tensor(items)

    def _to_tensor(self, pictures: Sequence[Pixels]) -> torch.Tensor:
        content = torch.frombuffer(bytearray().join(one.content for one in pictures), dtype=torch.uint8)
        pixels = content.view(len(pictures), *pictures[0].shape)
        tensor = torch.empty(pixels.shape, dtype=torch.get_default_dtype(), device="cpu")
        count = max(1, _AT_ONCE // math.prod(pictures[0].shape))
        for some, numbers in zip(torch.split(pixels, count), torch.split(tensor, count), strict=True):
            numbers.copy_(some).div_(255)
            for step in self._last[1:]:
                self._normalize(step, numbers)
        return tensor

    @staticmethod
    def _normalize(step: Any, tensor: torch.Tensor) -> None:
        numbers = _numbers_of(step)
        if numbers is None:
            tensor.copy_(step(tensor))
        else:
            mean, deviation = _columns(*numbers, tensor.dtype)
            tensor.sub_(mean).div_(deviation)

    def _finish_one(self, image: Any) -> Any:
        for step in self._last:
            image = step(image)
        return image


def _numbers_of(step: Any) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Return what Normalize subtracts and divides by; None where it would warn or fail, or has other dtypes."""
    mean, deviation = step.mean, step.std
    if type(mean) not in (list, tuple) or type(deviation) not in (list, tuple):
        return None
    numbers = (tuple(mean), tuple(deviation))
    if any(type(number) is not float for one in numbers for number in one) or 0.0 in numbers[1]:
        return None
    return numbers


@functools.lru_cache(maxsize=64)
def _columns(
    mean: tuple[float, ...], deviation: tuple[float, ...], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tensors that Normalize makes anew for each call, which takes as long as its arithmetic."""
    with torch.inference_mode(mode=False):
        first, second = (
            torch.tensor(numbers, dtype=dtype, device="cpu").view(-1, 1, 1) for numbers in (mean, deviation)
        )
    return first, second


def ending_of(processing: Any) -> Ending | None:
    """Split a processing; None if it is not a `Compose` that ends in ToTensor, or in ToTensor and Normalize.

    One whose `ending` is an `Ending` is already split.
    """
    own = getattr(processing, "ending", None)
    if isinstance(own, Ending):
        return own
    transforms = sys.modules.get("torchvision.transforms")
    if transforms is None or type(processing) is not transforms.Compose:  # a subclass may do more
        return None
    steps = processing.transforms
    kinds = [type(step) for step in steps]
    for last in ([transforms.ToTensor], [transforms.ToTensor, transforms.Normalize]):
        if kinds[-len(last) :] == last:
            return Ending(steps[: -len(last)], steps[-len(last) :])
    return None
