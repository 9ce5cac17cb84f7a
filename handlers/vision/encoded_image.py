"""Images that come as text, in base64, in a data URL or in JSON; and a description of bodies that hold none."""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from handlers.batch.inputs import is_empty
from handlers.errors import BadInputError
from handlers.vision import decoding

if TYPE_CHECKING:
    from PIL import Image as PILImage

WANTED = "an image, its bytes in base64, or a list of numbers"
_SHOWN = 24  # characters of a client's text that an error quotes
_LOOKED_AT = 512  # bytes that show what a body is

# The head of a data URL (RFC 2397) with any parameters. Base64 has no semicolon, so the first of these ends the head.
_DATA_URL = re.compile(r"data:.{0,1000}?;\s*base64\s*,", re.IGNORECASE | re.DOTALL)

# The first characters of the usual image formats in base64.
_ENCODED = {"iVBORw0K": "PNG", "/9j/": "JPEG", "R0lGOD": "GIF", "UklGR": "WebP", "SUkq": "TIFF", "TU0A": "TIFF"}

_PATH = "a path or a name of a file, which is not opened: send its bytes, as curl -T FILE does"
_FOLDER = rb"\s*(@|~?/|\.{1,2}/|[a-z]:\\)"
_SUFFIX = rb"\.(png|jpe?g|gif|bmp|webp|tiff?|heic|avif|svg|ppm)"
_LOOKS = [
    (re.compile(pattern, re.IGNORECASE | re.DOTALL), look)
    for pattern, look in (
        (rb"\s*(<!--.{0,400}?-->\s*)?<(!doctype\s+html|html|head|body)\b", "an HTML page"),
        (rb"\s*(<\?xml.{0,200}?>\s*)?(<!doctype\s+svg.{0,200}?>\s*)?<svg\b", "an SVG drawing, which is not read"),
        (rb"\s*<\?xml\b", "XML"),
        (rb"--[^\r\n]{1,200}\r?\nContent-", "a multipart form without its Content-Type and boundary"),
        (rb"\s*data:", "a data URL that is not base64"),
        (rb"\s*(https?|ftp|s3|gs|file)://", "a URL, which is not fetched"),
        (rb"\s*b['\"]", "what Python prints of bytes, b'...': decode() base64 to a text"),
        (_FOLDER + rb'?[^<>{}\[\]"]{0,250}' + _SUFFIX + rb"\s*$", _PATH),
        (_FOLDER + rb'[^\s<>{}\[\]"+=]{1,250}\s*$', _PATH),
        (rb"\s*[\[{]", "JSON that cannot be read"),
        (rb"%PDF-", "a PDF document"),
        (rb"PK\x03\x04", "a zip file"),
        (rb"\x1f\x8b", "a file that gzip compressed"),
        (rb"\x93NUMPY", "an array of NumPy's"),
        (rb".{4}ftyp(heic|heix|heim|hevc|mif1|msf1)", "a HEIC image, which is not read here"),
        (rb".{4}ftypavi[fs]", "an AVIF image, which is not read here"),
        (rb".{4}ftyp", "an MP4 video"),
    )
]


def read_image(value: Any, *, form: bool = False) -> PILImage.Image | list[Any]:
    """Return the image of a request, or the list of numbers that came in its place.

    Args:
        value: an image's bytes; the same in base64, as text or as bytes, with or without line breaks, quotes or the
            head of a data URL; or JSON with one of these as `data` or `body`, parsed by the worker or not.
        form: the value is a field of a URL-encoded form, where a plus that the client did not escape is now a blank.

    Raises:
        BadInputError: it is none of these; the message says what it looks like.
    """
    if isinstance(value, bytes | bytearray | memoryview):
        content = bytes(value) if isinstance(value, memoryview) else value
        image = decoding.open_image(content)
        if image is not None:
            return decoding.load_image(image)
        try:
            value = content.decode()
        except UnicodeDecodeError:
            raise _no_image(content) from None
        if "\0" in value:
            raise _no_image(content)
    if isinstance(value, str):
        value = _unpacked(value)
    if isinstance(value, dict):
        value = _field(value)
    if isinstance(value, str):
        return _decoded(value, form=form)
    if not isinstance(value, list):
        raise BadInputError(f"the body is {_json_kind(value)}: send {WANTED}")
    return value


def _unpacked(text: str) -> Any:
    """Parse a text that is JSON; return any other as it is."""
    if text.lstrip()[:1] not in ("{", "[", '"'):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _field(document: dict[str, Any]) -> Any:
    for name in ("data", "body"):
        value = document.get(name)
        if value is not None and not is_empty(value):
            if isinstance(value, dict):
                raise BadInputError(f"{name!r} of the JSON is an object: let it be {WANTED}")
            return value
    if "data" in document or "body" in document:
        raise BadInputError(f"'data' of the JSON is empty: let it be {WANTED}")
    names = ", ".join(repr(str(name)[:40]) for name in list(document)[:5]) or "no keys"
    raise BadInputError(f'the body is JSON without data, it has {names}: send {WANTED}, or {{"data": "<base64>"}}')


def _decoded(text: str, *, form: bool) -> PILImage.Image:
    encoded = text.strip()
    if form:
        encoded = encoded.replace(" ", "+")
    head = _DATA_URL.match(encoded)
    if head is not None:
        encoded = unquote(encoded[head.end() :])
    encoded = "".join(encoded.split()).strip("\"'")
    try:
        content = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:  # the latter: characters outside ASCII
        raise _no_base64(text, encoded, error) from error
    image = decoding.open_image(content) if content else None
    if image is None:
        if head is None and (look := _look_of(encoded.encode())):
            raise BadInputError(f"the body looks like {look}; send {WANTED}")
        look = _look_of(content) or f"bytes that begin with {_shortened(content)}"
        raise BadInputError(f"the body is base64 of no image but of {look}; {decoding.READ}")
    try:
        return decoding.load_image(image)
    except BadInputError as error:
        raise BadInputError(f"the body is base64, and {error}") from error


def _no_base64(text: str, encoded: str, error: Exception) -> BadInputError:
    for begin, name in _ENCODED.items():
        if encoded.startswith(begin):
            shown = "its length is no multiple of 4" if len(encoded) % 4 else str(error)
            return BadInputError(f"the body is a {name} image in base64 that is damaged or cut short: {shown}")
    look = _look_of(text.encode("utf-8", "replace"))
    if look:
        return BadInputError(f"the body looks like {look}; send {WANTED}")
    return BadInputError(
        f"the body is not an image and no base64 of one, it begins with {_shortened(text)}; {decoding.READ}"
    )


def _no_image(content: bytes | bytearray) -> BadInputError:
    look = _look_of(content)
    shown = f"it looks like {look}" if look else f"it begins with {_shortened(bytes(content[:64]))}"
    return BadInputError(f"the body is not an image, {shown}; {decoding.READ}")


def _look_of(content: bytes | bytearray) -> str | None:
    """Describe what a body looks like; None if it is not known."""
    beginning = bytes(content[:_LOOKED_AT])
    return next((look for pattern, look in _LOOKS if pattern.match(beginning)), None)


def _json_kind(value: Any) -> str:
    names = {bool: "true or false", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _shortened(value: Any) -> str:
    return repr(value[:_SHOWN]).removeprefix("b")
