"""The default processing of images for ImageNet: the numbers of torchvision's transforms, computed faster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from handlers.vision.to_tensor import Ending

if TYPE_CHECKING:
    from PIL import Image as PILImage

SCALED, CUT = 256, 224
MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]

# Rows are left out by copying the others. That costs about half as much as scaling them, and more where the copy is so
# large that its memory is new each time. Hence the largest share of rows, and the largest copy in pixels.
_FEW_ROWS, _MOST_COPIED = 0.75, 2**22
# The largest ratio of height to width for which Pillow scales the rows first: from version 13 on it scales the columns
# of taller images first, and so rounds other numbers in between.
_HIGH = 2


def make_processing(transforms: Any) -> Any:
    """Make the processing: a `Compose` of four of torchvision's transforms, whose module is `transforms`.

    RGB images take a faster way to the same numbers. Other images go through these transforms, and so do all once the
    list of transforms has been changed.
    """
    parts = [
        transforms.Resize(SCALED),
        transforms.CenterCrop(CUT),
        transforms.ToTensor(),
        transforms.Normalize(mean=MEAN, std=DEVIATION),
    ]

    def scale(picture: Any) -> Any:
        return fit(picture) if getattr(picture, "mode", None) == "RGB" else parts[1](parts[0](picture))

    class ImageNetProcessing(transforms.Compose):  # type: ignore[misc]  # torchvision has no types
        def __init__(self) -> None:
            super().__init__(list(parts))
            self._ending = Ending([scale], parts[2:])

        @property
        def ending(self) -> Ending | None:
            """The two parts of the processing, of which a batch needs the second once; None if it was changed."""
            return self._ending if type(self) is ImageNetProcessing and self.transforms == parts else None

        def __call__(self, picture: Any) -> Any:
            if getattr(picture, "mode", None) != "RGB" or self.ending is None:
                return super().__call__(picture)
            return self._ending.finish([self._ending.begin(picture)])[0]

    return ImageNetProcessing()


def fit(picture: PILImage.Image) -> PILImage.Image:
    """Scale an image's shorter side to 256 pixels, and crop the middle 224 x 224.

    Pillow scales the rows, then the columns, and rounds in between. So columns that are cropped need no scaling, and
    neither do rows that the middle does not use. Pillow's `box` cannot leave them out: its numbers have 32 bits, so it
    would scale from slightly different places.
    """
    from PIL import Image

    width, height = picture.size
    wide = SCALED if width <= height else int(SCALED * width / height)
    high = SCALED if height <= width else int(SCALED * height / width)
    left, top = (int(round((size - CUT) / 2.0)) for size in (wide, high))  # noqa: RUF046 (as torchvision writes it)
    if height > _HIGH * width:
        return picture.resize((wide, high), Image.Resampling.BILINEAR).crop((left, top, left + CUT, top + CUT))
    above = 0
    if width != wide:
        first, end = _rows_for(top, height / high)
        if end - first <= height * _FEW_ROWS and (end - first) * width <= _MOST_COPIED:
            picture, above = picture.crop((0, first, width, end)), first
        picture = picture.resize((wide, picture.height), Image.Resampling.BILINEAR)
    # The rows that were left out are black now; no row that is kept depends on them.
    picture = picture.crop((left, -above, left + CUT, height - above))
    if height != high:
        picture = picture.resize((CUT, high), Image.Resampling.BILINEAR)
    return picture.crop((0, top, CUT, top + CUT))


def _rows_for(top: int, scale: float) -> tuple[int, int]:
    """Return the first row that the kept ones are made of, and the one after the last, or up to two rows more."""
    support = max(scale, 1.0)  # the reach of the bilinear filter
    first, last = (top + 0.5) * scale - support, (top + CUT - 0.5) * scale + support
    return max(0, int(first) - 1), int(last) + 2
