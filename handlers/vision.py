"""Pictures out of requests."""

from __future__ import annotations

import base64
import binascii
import functools
import io
import re
import warnings
from typing import TYPE_CHECKING, Any, cast

from handlers.errors import BadInputError
from handlers.imagenet import make_processing

if TYPE_CHECKING:
    from collections.abc import Callable

    from PIL import Image as PILImage

# Not read from strangers: Ghostscript would run the first; the others are stubs without a decoder.
_EXCLUDED_FORMATS = frozenset({"EPS", "BUFR", "GRIB", "HDF5", "WMF", "FPX", "MIC", "MPEG"})
_READ = "PNG, JPEG, GIF, BMP, WebP and TIFF pictures are read, among others"
_DATA_URL = re.compile(r"^data:[\w/+.-]*;base64,")


class Processing:
    """The class attribute `image_processing` of those who set none; made when it is first read, for torchvision
    takes long to import.
    """

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self._make = make
        self.made: Any = None

    def __get__(self, instance: object, owner: type) -> Any:
        if self.made is None:
            from torchvision import transforms

            self.made = self._make(transforms)
        return self.made


imagenet_processing = Processing(make_processing)
"""The middle 224 x 224 pixels after scaling to 256, normalised, as torchvision's models for ImageNet take them."""

whole_picture = Processing(lambda transforms: transforms.Compose([transforms.ToTensor()]))
"""All pixels, from 0 to 1."""


def is_default(processing: Any) -> bool:
    """Tell whether a processing is one of those above."""
    return any(processing is one.made for one in (imagenet_processing, whole_picture) if one.made is not None)


def decode_base64(text: str) -> bytes:
    """Decode a picture sent as text: with or without line breaks, quotes, or the head of a data URL."""
    encoded = "".join(text.split()).strip("\"'")
    try:
        return base64.b64decode(_DATA_URL.sub("", encoded, count=1), validate=True)
    except (binascii.Error, ValueError) as error:  # the latter: characters outside ASCII
        raise BadInputError(
            f"the body is a text that is no base64: {_shorten(text)}; send a picture's bytes, or those in base64"
        ) from error


def decode_image(content: bytes | bytearray | memoryview) -> PILImage.Image:
    """Decode a picture, all of it.

    Its size is checked before memory is taken: more than PIL's `Image.MAX_IMAGE_PIXELS` pixels are refused.
    Raises `BadInputError`.
    """
    from PIL import Image, UnidentifiedImageError

    if not len(content):
        raise BadInputError(f"the body is empty: send a picture ({_READ})")
    _ignore_size_warning()
    try:
        image = Image.open(io.BytesIO(content), formats=readable_formats())
    except UnidentifiedImageError as error:
        raise BadInputError(
            f"the body is not a picture, it begins with {_shorten(bytes(content[:64]))}; {_READ}"
        ) from error
    except Image.DecompressionBombError as error:  # twice the limit and more: PIL itself refuses
        count = re.search(r"\d+", str(error))
        raise _too_many_pixels(int(count.group()) if count else None, Image.MAX_IMAGE_PIXELS) from error
    except MemoryError:
        raise
    except Exception as error:  # what PIL's decoders raise for broken files is not bounded
        raise BadInputError(f"the picture is damaged: {error}") from error
    limit = Image.MAX_IMAGE_PIXELS
    if limit is not None and image.width * image.height > limit:
        raise _too_many_pixels(image.width * image.height, limit, f"{image.width} x {image.height}")
    try:
        image.load()
    except MemoryError:
        raise
    except Exception as error:
        raise BadInputError(f"the {image.format} picture is damaged or cut short: {error}") from error
    return image


def convert(image: PILImage.Image, mode: str) -> PILImage.Image:
    """Convert a picture to a mode of PIL's, such as RGB or L; 16-bit grey is scaled, where PIL would clip it."""
    if image.mode.startswith("I;16") or (image.mode == "I" and cast("Any", image.getextrema())[1] > 255):
        image = image.convert("I").point(lambda value: value * (1 / 256)).convert("L")
    return image if image.mode == mode else image.convert(mode)


def _too_many_pixels(count: int | None, limit: int | None, size: str = "") -> BadInputError:
    shown = f"{size}, {count:,} pixels" if size else f"{count:,} pixels" if count else "too many pixels"
    allowed = f"{limit:,}" if limit is not None else "lower"
    return BadInputError(f"the picture is too large ({shown}): the limit is {allowed}")


def readable_formats() -> tuple[str, ...]:
    """Name PIL's formats that are decoded; the first call imports the decoders."""
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


def _shorten(value: Any) -> str:
    return repr(value[:24]).removeprefix("b")
