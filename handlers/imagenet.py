"""The default processing of pictures for ImageNet: the numbers of torchvision's transforms, by a shorter way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image as PILImage

SCALED, CUT = 256, 224
MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def make_processing(transforms: Any) -> Any:
    """Make the processing: a `Compose` of four of torchvision's transforms, whose module is `transforms`.

    RGB pictures take a shorter way to the same numbers; others, and all once somebody has changed the list of
    transforms, go through these.
    """
    parts = [
        transforms.Resize(SCALED),
        transforms.CenterCrop(CUT),
        transforms.ToTensor(),
        transforms.Normalize(mean=MEAN, std=DEVIATION),
    ]

    class ImageNetProcessing(transforms.Compose):  # type: ignore[misc]  # torchvision has no types
        def __init__(self) -> None:
            super().__init__(list(parts))
            self._numbers = _table(parts[2:])

        def __call__(self, picture: Any) -> Any:
            if getattr(picture, "mode", None) != "RGB" or self.transforms != parts:
                return super().__call__(picture)
            return _normalise(fit(picture), self._numbers)

    return ImageNetProcessing()


def fit(picture: PILImage.Image) -> PILImage.Image:
    """Scale a picture's shorter side to 256 pixels, and take the middle of 224 x 224.

    Pillow scales the rows, then the columns, and rounds in between. So columns that are cut off need not be scaled.
    """
    from PIL import Image

    width, height = picture.size
    wide = SCALED if width <= height else int(SCALED * width / height)
    high = SCALED if height <= width else int(SCALED * height / width)
    left, top = (int(round((size - CUT) / 2.0)) for size in (wide, high))  # noqa: RUF046 (as torchvision writes it)
    if width != wide:
        picture = picture.resize((wide, height), Image.Resampling.BILINEAR)
    picture = picture.crop((left, 0, left + CUT, height))
    if height != high:
        picture = picture.resize((CUT, high), Image.Resampling.BILINEAR)
    return picture.crop((0, top, CUT, top + CUT))


def _table(parts: list[Any]) -> np.ndarray[Any, Any]:
    """Give what the transforms make of each of the 256 values of each channel, float32 `[3, 256]`."""
    import numpy as np
    from PIL import Image

    value: Any = Image.fromarray(np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2))
    for part in parts:
        value = part(value)
    table: np.ndarray[Any, Any] = value[:, :, 0].contiguous().numpy()
    return table


def _normalise(picture: PILImage.Image, table: np.ndarray[Any, Any]) -> torch.Tensor:
    """Look the numbers up: float32 `[3, height, width]`."""
    import numpy as np

    pixels = np.asarray(picture)
    numbers = np.empty((3, *pixels.shape[:2]), np.float32)
    for channel in range(3):
        np.take(table[channel], pixels[:, :, channel], out=numbers[channel], mode="clip")
    return torch.from_numpy(numbers)
