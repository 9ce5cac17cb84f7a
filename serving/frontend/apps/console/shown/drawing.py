"""What a page draws of an answer: classes as bars, boxes and masks over the picture, long lists shortened."""

from __future__ import annotations

import base64
import io
import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeGuard

from serving.answers import decode, strict

if TYPE_CHECKING:
    from PIL import Image

#: Bars and boxes that are drawn; items of a list and characters of a text that are shown.
MOST_BARS: Final = 10
MOST_BOXES: Final = 100
MOST_ITEMS: Final = 8
MOST_TEXT: Final = 20_000
# Of a text within an answer; of base64 nobody reads more than that it is some.
_MOST_STRING, _MOST_BASE64 = 2000, 60
_BASE64: Final = re.compile(r"[A-Za-z0-9+/_-]{200,}={0,2}")
#: Bytes of an answer that is drawn, and pixels along a side of a mask.
MOST_DRAWN: Final = 16_000_000
MOST_SIDE: Final = 4096
# Pixels of all masks of an answer together: small files may have many.
_MOST_PIXELS: Final = 64_000_000
_DEPTH: Final = 20
# What torchvision's processing for ImageNet leaves of the shorter side.
_IMAGENET: Final = 224 / 256
# Colours that differ for most eyes (Okabe and Ito); class 0 is the background of most models.
_COLOURS: Final = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
_PICTURES: Final = {"PNG": "image/png", "JPEG": "image/jpeg", "GIF": "image/gif", "WEBP": "image/webp"}


@dataclass(frozen=True)
class Picture:
    """A picture that was sent.

    Attributes:
        url: a data URL of it.
        width, height: pixels.
    """

    url: str
    width: int
    height: int


@dataclass(frozen=True)
class Box:
    """An object that was found, in pixels of the picture."""

    label: str
    score: float | None
    left: float
    top: float
    width: float
    height: float

    @property
    def right(self) -> float:
        """Its right side."""
        return self.left + self.width

    @property
    def bottom(self) -> float:
        """Its lower side."""
        return self.top + self.height


@dataclass(frozen=True)
class Mask:
    """A class for each pixel.

    Attributes:
        url: a data URL of it.
        left, top, width, height: where it lies on the picture; all 0 without one.
        shares: of the pixels, by class and colour.
    """

    url: str
    left: float
    top: float
    width: float
    height: float
    shares: tuple[tuple[str, str, float], ...]


@dataclass(frozen=True)
class Drawn:
    """An answer as it is drawn.

    Attributes:
        text: of the answer, with its long lists shortened.
        bars: classes with their scores, the best first.
        picture: that was sent, where there is something to draw over it.
        boxes: objects in it.
        mask: classes of its pixels.
        numbers: of a vector.
    """

    text: str
    bars: tuple[tuple[str, float], ...] = ()
    picture: Picture | None = None
    boxes: tuple[Box, ...] = ()
    mask: Mask | None = None
    numbers: int = 0


def drawn(body: bytes, content_type: str, sent: bytes = b"") -> Drawn:
    """Find what can be drawn of an answer.

    Args:
        body: the answer.
        content_type: of it.
        sent: the request's body, which may be a picture.
    """
    if len(body) > MOST_DRAWN:
        return Drawn(f"{len(body)} bytes")
    answer = decode(body, content_type.partition(";")[0].strip().lower())
    if isinstance(answer, bytes):
        return Drawn(f"{len(answer)} bytes: {answer[:64].hex(' ')}{' ...' if len(answer) > 64 else ''}")
    if isinstance(answer, str):
        return Drawn(cut(answer))
    text = cut(json.dumps(strict(shortened(answer)), indent=2, ensure_ascii=False))
    if boxes := boxes_of(answer):
        return Drawn(text, picture=picture_of(sent), boxes=boxes)
    if bars := bars_of(answer):
        return Drawn(text, bars=bars)
    if is_mask(answer):
        picture = picture_of(sent)
        return Drawn(text, picture=picture, mask=_mask_of(answer, picture))
    if masks := masks_of(answer):
        picture = picture_of(sent)
        return Drawn(text, picture=picture, mask=_mask_of_many(masks, picture))
    return Drawn(text, numbers=len(answer) if _is_vector(answer) else 0)


def cut(text: str) -> str:
    """Return a text, without its end where it is long."""
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}\n... {len(text) - MOST_TEXT} more characters"


def shortened(value: Any, depth: int = 0) -> Any:
    """Return a value with its long lists and texts cut."""
    if depth > _DEPTH:
        return "..."
    if isinstance(value, list):
        shown = [shortened(one, depth + 1) for one in value[:MOST_ITEMS]]
        return shown if len(value) <= MOST_ITEMS else [*shown, f"... {len(value) - MOST_ITEMS} more"]
    if isinstance(value, dict):
        return {key: shortened(one, depth + 1) for key, one in list(value.items())[:100]}
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, str):
        most = _MOST_BASE64 if _BASE64.fullmatch(value) else _MOST_STRING
        return value if len(value) <= most else f"{value[:most]}... {len(value) - most} more characters"
    return value


def bars_of(answer: Any) -> tuple[tuple[str, float], ...]:
    """Return classes and their scores, the best first, where an answer is that: in any of the forms of our handlers."""
    pairs: list[tuple[str, Any]] = []
    if isinstance(answer, dict) and isinstance(answer.get("labels"), list) and isinstance(answer.get("scores"), list):
        pairs = [(str(label), score) for label, score in zip(answer["labels"], answer["scores"], strict=False)]
    elif isinstance(answer, dict):
        pairs = list(answer.items())
    elif isinstance(answer, list) and answer and all(isinstance(one, dict) for one in answer):
        pairs = [(str(one["label"]), one["score"]) for one in answer if set(one) == {"label", "score"}]
        if len(pairs) < len(answer):
            return ()
    if not pairs or not all(_is_share(score) for _, score in pairs):
        return ()
    return tuple(sorted(((label, float(score)) for label, score in pairs), key=lambda one: -one[1])[:MOST_BARS])


def _is_share(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= 1


def boxes_of(answer: Any) -> tuple[Box, ...]:
    """Return objects with their boxes: torchvision's ``{label: [l, t, r, b], "score"}``, or the Hub's ``box``."""
    if not isinstance(answer, list) or not answer or not all(isinstance(one, dict) for one in answer):
        return ()
    found = [_box_of(one) for one in answer[:MOST_BOXES]]
    boxes = tuple(one for one in found if one is not None)
    return boxes if len(boxes) == len(found) else ()


def _box_of(one: Mapping[str, Any]) -> Box | None:
    given = one.get("box")
    score = one.get("score")
    if isinstance(given, dict):
        label, corners = str(one.get("label", "")), [given.get(key) for key in ("xmin", "ymin", "xmax", "ymax")]
    else:
        lists: list[tuple[str, Any]] = [(key, value) for key, value in one.items() if key != "score"]
        if len(lists) != 1 or not isinstance(lists[0][1], list) or len(lists[0][1]) != 4:
            return None
        label, corners = lists[0]
    left, top, right, bottom = (float(one) if _is_number(one) else math.nan for one in corners)
    if math.isnan(left + top + right + bottom):
        return None
    width, height = max(0.0, right - left), max(0.0, bottom - top)
    return Box(label, float(score) if _is_number(score) else None, left, top, width, height)


def _is_number(value: Any) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_vector(answer: Any) -> bool:
    return isinstance(answer, list) and len(answer) > MOST_ITEMS and all(_is_number(one) for one in answer)


def is_mask(answer: Any) -> bool:
    """Whether it has a class, and its probability, for every pixel: rows of pairs."""
    if not isinstance(answer, list) or not 1 < len(answer) <= MOST_SIDE:
        return False
    first = answer[0]
    width = len(first) if isinstance(first, list) else 0
    return 1 < width <= MOST_SIDE and all(
        isinstance(row, list) and len(row) == width and all(_is_pixel(one) for one in row) for row in answer
    )


def _is_pixel(one: Any) -> bool:
    return isinstance(one, list) and len(one) == 2 and _is_number(one[0]) and 0 <= one[0] < 256


def picture_of(sent: bytes) -> Picture | None:
    """Return what was sent, if browsers show it as a picture; its pixels are not read."""
    if not sent:
        return None
    from PIL import Image

    try:
        with Image.open(io.BytesIO(sent), formats=tuple(_PICTURES)) as image:
            width, height = image.size
            kind = _PICTURES[str(image.format)]
    except Exception:  # of some forty kinds, as the file says
        return None
    return Picture(_data_url(kind, sent), width, height)


def _data_url(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _mask_of(answer: list[list[list[float]]], picture: Picture | None) -> Mask:
    from PIL import Image

    classes = bytes(int(one[0]) for row in answer for one in row)
    image = Image.frombytes("P", (len(answer[0]), len(answer)), classes)
    counts = Counter(classes).most_common(MOST_BARS)
    return _laid(image, [(str(number), number, count / len(classes)) for number, count in counts], picture)


def masks_of(answer: Any) -> list[tuple[str, Image.Image]]:
    """Return labels and their masks, pictures of black and white of one size: the Hub's ``label`` and ``mask``."""
    from PIL import Image

    if not isinstance(answer, list) or not all(isinstance(one, dict) and "mask" in one for one in answer):
        return []
    found: list[tuple[str, Image.Image]] = []
    for one in answer[:MOST_BOXES]:
        try:
            image = Image.open(io.BytesIO(base64.b64decode(one["mask"], validate=True)), formats=("PNG",))
            same = image.size == found[0][1].size if found else max(image.size) <= MOST_SIDE
            if not same or (len(found) + 1) * image.width * image.height > _MOST_PIXELS:
                return []
            found.append((str(one.get("label", "")), image.convert("L").point(lambda value: 255 * (value > 127))))
        except Exception:  # of some forty kinds, as the file says
            return []
    return found


def _mask_of_many(masks: list[tuple[str, Image.Image]], picture: Picture | None) -> Mask:
    from PIL import Image

    image = Image.new("P", masks[0][1].size, 0)
    shares = []
    for number, (label, mask) in enumerate(masks, 1):
        image.paste(number, mask=mask)
        shares.append((label, number, mask.histogram()[255] / (mask.width * mask.height)))
    return _laid(image, sorted(shares, key=lambda one: -one[2])[:MOST_BARS], picture)


def _laid(image: Image.Image, shares: list[tuple[str, int, float]], picture: Picture | None) -> Mask:
    """Lay classes over a picture; `shares`: name, number and share of the pixels of each."""
    image.putpalette([part for number in range(256) for part in _colour(number)])
    written = io.BytesIO()
    image.save(written, "PNG", transparency=0)
    named = tuple((name, "#{:02x}{:02x}{:02x}".format(*_colour(number)), share) for name, number, share in shares)
    return Mask(_data_url("image/png", written.getvalue()), *_place(*image.size, picture), named)


def _colour(number: int) -> tuple[int, int, int]:
    return (128, 128, 128) if number == 0 else _COLOURS[(number - 1) % len(_COLOURS)]


def _place(width: int, height: int, picture: Picture | None) -> tuple[float, float, float, float]:
    """Return where a mask lies: on all of a picture of the same form, else in the middle, as for ImageNet."""
    if picture is None:
        return 0.0, 0.0, float(width), float(height)
    if abs(width * picture.height - height * picture.width) <= max(width * picture.height, 1) // 100:
        return 0.0, 0.0, float(picture.width), float(picture.height)
    side = _IMAGENET * min(picture.width, picture.height)
    return (picture.width - side) / 2, (picture.height - side) / 2, side, side


def timings(header: str) -> list[tuple[str, float | None, str]]:
    """Read ``Server-Timing``: of each part its name, milliseconds, and what else it says."""
    found = []
    for part in header.split(","):
        name, *given = (piece.strip() for piece in part.split(";"))
        values = dict(one.partition("=")[::2] for one in given)
        if name:
            found.append((name, _number(values.get("dur")), values.get("desc", "").strip('"')))
    return found


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def total(parts: Iterable[tuple[str, float | None, str]]) -> float:
    """Return the milliseconds of all parts together."""
    return sum(milliseconds or 0.0 for _, milliseconds, _ in parts)
