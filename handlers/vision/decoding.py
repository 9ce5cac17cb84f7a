"""Images from bytes."""

from __future__ import annotations

import functools
import io
import re
import warnings
from typing import TYPE_CHECKING, Any

from handlers.errors import BadInputError
from handlers.vision.imagenet import make_processing

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image as PILImage

# Not read from untrusted input: Ghostscript would run the first; the others are stubs without a decoder.
_EXCLUDED_FORMATS = frozenset({"EPS", "BUFR", "GRIB", "HDF5", "WMF", "FPX", "MIC", "MPEG"})
READ = "PNG, JPEG, GIF, BMP, WebP and TIFF images are read, among others"


class Processing:
    """A default of the class attribute `image_processing`, made when it is first read: torchvision imports slowly."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make
        self.made: Any = None

    def __get__(self, instance: object, owner: type) -> Any:
        if self.made is None:
            from torchvision import transforms

            self.made = self._make(transforms)
        return self.made


imagenet_processing = Processing(make_processing)
"""The middle 224 x 224 pixels after scaling to 256, normalized, as torchvision's models for ImageNet take them."""

whole_picture = Processing(lambda transforms: transforms.Compose([transforms.ToTensor()]))
"""All pixels, from 0 to 1."""


def is_default(processing: Any) -> bool:
    """Return whether a processing is one of the defaults above."""
    return any(processing is one.made for one in (imagenet_processing, whole_picture) if one.made is not None)


def decode_image(content: bytes | bytearray | memoryview) -> PILImage.Image:
    """Decode an image completely.

    Its size is checked before memory is allocated: more than PIL's `Image.MAX_IMAGE_PIXELS` pixels are refused.

    Raises:
        BadInputError: it is not an image, is damaged, or is too large.
    """
    if not len(content):
        raise BadInputError(f"the body is empty: send an image ({READ})")
    image = open_image(content)
    if image is None:
        shown = repr(bytes(content[:24])).removeprefix("b")
        raise BadInputError(f"the body is not an image, it begins with {shown}; {READ}")
    return load_image(image)


def open_image(content: bytes | bytearray | memoryview) -> PILImage.Image | None:
    """Read the header of an image, without its pixels; return None for bytes that are not an image.

    Raises:
        BadInputError: the image is damaged or too large.
    """
    from PIL import Image, UnidentifiedImageError

    _ignore_size_warning()
    try:
        return Image.open(io.BytesIO(content), formats=readable_formats())
    except UnidentifiedImageError:
        return None
    except Image.DecompressionBombError as error:  # at twice the limit PIL itself refuses
        count = re.search(r"\d+", str(error))
        raise _too_many_pixels(int(count.group()) if count else None, Image.MAX_IMAGE_PIXELS) from error
    except MemoryError:
        raise
    except Exception as error:  # PIL's decoders may raise anything for broken files
        raise BadInputError(f"the image is damaged: {error}") from error


def load_image(image: PILImage.Image) -> PILImage.Image:
    """Decode the pixels of an opened image, unless they are too many.

    Raises:
        BadInputError: they are too many, or damaged.
    """
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise _too_many_pixels(image.width * image.height, limit, f"{image.width} x {image.height}")
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        raise BadInputError(f"the {image.format} image is damaged or cut short: {error}") from error
    return image


def upright(image: PILImage.Image) -> PILImage.Image:
    """Rotate an image as the orientation of its EXIF data says; one without, or with damaged data, stays as it is."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(image)
    except MemoryError:
        raise
    except Exception:  # of the metadata, while the pixels are good
        return image


def convert(image: PILImage.Image, mode: str) -> PILImage.Image:
    """Convert an image to one of PIL's modes, such as RGB or L.

    Gray of more than 8 bits a pixel, which PIL would clip, is scaled where the mode has 8: integers up to 65535, floats
    up to 1. 32-bit numbers up to 255 are taken as they are.

    Raises:
        BadInputError: the numbers have another range, or PIL does not convert to the mode.
    """
    if image.mode == mode:
        return image
    if _is_wide(image.mode) and not _is_wide(mode):
        image = _scaled(image)
    elif image.mode.startswith("I;16"):
        image = image.convert("I")
    try:
        return image if image.mode == mode else image.convert(mode)
    except ValueError as error:
        raise BadInputError(f"the image is {image.mode}, which is not converted to {mode}: send RGB or grey") from error


def _is_wide(mode: str) -> bool:
    """Return whether a pixel has more than 8 bits in its one channel."""
    return mode in ("I", "F") or mode.startswith("I;16")


def _scaled(image: PILImage.Image) -> PILImage.Image:
    """Scale gray of more bits to 8. Only 16-bit modes say which number is white; else the numbers themselves decide."""
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I;16"):
        pixels = np.asarray(image.convert("I")) >> 8
    else:
        pixels = np.asarray(image)
        low, high = float(np.min(pixels)), float(np.max(pixels))  # NaN, if one of them is NaN
        if not 0 <= low <= high <= (255 if image.mode == "F" else 65535):
            raise BadInputError(
                f"the pixels are 32-bit numbers from {low:g} to {high:g}, which does not tell which number is white: "
                "send 8 or 16 bits a pixel, or floats from 0 to 1"
            )
        if image.mode == "I":
            pixels = pixels >> 8 if high > 255 else pixels
        elif high <= 1:
            pixels = np.rint(pixels * 255)
    return Image.fromarray(pixels.astype(np.uint8))


def _too_many_pixels(count: int | None, limit: int | None, size: str = "") -> BadInputError:
    shown = f"{size}, {count:,} pixels" if size else f"{count:,} pixels" if count else "too many pixels"
    allowed = f"{limit:,}" if limit is not None else "lower"
    return BadInputError(f"the image is too large ({shown}): the limit is {allowed}")


def readable_formats() -> tuple[str, ...]:
    """Return PIL's formats that are decoded; the first call imports the decoders."""
    from PIL import Image

    Image.init()
    return _readable(len(Image.OPEN))


@functools.lru_cache(maxsize=1)
def _readable(count: int) -> tuple[str, ...]:  # noqa: ARG001 (a plugin that is imported later adds to them)
    from PIL import Image

    return tuple(name for name in Image.OPEN if name not in _EXCLUDED_FORMATS)


def _ignore_size_warning() -> None:
    """Keep PIL from warning of sizes that are checked here; once for the process, since filters are not per thread."""
    from PIL import Image

    if ("ignore", None, Image.DecompressionBombWarning, None, 0) not in warnings.filters:
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
