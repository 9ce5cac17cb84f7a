"""The header of an array that numpy saved, read as numpy does: by its meaning, not by its spelling.

The format is described in `numpy.lib.format`. The header is a Python literal with the type of the elements. If there
are objects among these, a pickle follows, else their bytes.
"""

from __future__ import annotations

import ast
import math
import re
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from archive_tool.pickles.budget import Budget

MAGIC: Final = b"\x93NUMPY"
#: Longer ones are not read by numpy either, unless it is told to.
_MAX_HEADER: Final = 10_000
#: Bytes of a header that take as long to read as an entry of a zip's directory.
_UNIT: Final = 8
_LENGTH_BYTES: Final = {b"\1\0": 2, b"\2\0": 4, b"\3\0": 4}
_PLAIN: Final = re.compile(r"[<>|=]?(?:(?P<kind>[biufcSUV])(?P<size>[0-9]{1,9})|\?|[mM]8(?:\[[^\]]*\])?)")


class NotAnArrayError(ValueError):
    """The bytes are not in the format of numpy."""


class Array(NamedTuple):
    """The content of a header.

    Attributes:
        start: where the elements begin, from the start of the file.
        size: their bytes; None if there may be objects among them, which are pickled.
    """

    start: int
    size: int | None


class TooManyError(NotAnArrayError):
    """More headers than the budget allows."""


def read(stream: IO[bytes], budget: Budget) -> Array:
    """Read the header at a stream's position.

    Raises:
        TooManyError: the budget has none left.
        NotAnArrayError: there is none, or it is longer or of another kind than numpy's own.
    """
    head = stream.read(len(MAGIC) + 2)
    width = _LENGTH_BYTES.get(head[len(MAGIC) :])
    if not head.startswith(MAGIC) or width is None:
        raise NotAnArrayError("it begins in another way")
    length = int.from_bytes(stream.read(width), "little")
    data = stream.read(min(length, _MAX_HEADER + 1))
    if len(data) < length or length > _MAX_HEADER:
        raise NotAnArrayError("its header is too long, or cut short")
    if not budget.read_headers(1 + length // _UNIT):
        raise TooManyError("there are too many of them")
    try:
        found = ast.literal_eval(data.decode("utf-8" if head.endswith(b"\3\0") else "latin-1"))
    # The errors for a damaged or a deeply nested text.
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise NotAnArrayError("its header is no literal") from error
    if not isinstance(found, dict) or found.keys() != {"descr", "fortran_order", "shape"}:
        raise NotAnArrayError("its header has other keys")
    shape = found["shape"]
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise NotAnArrayError("it has no shape")
    element = item_size(found["descr"])
    return Array(len(head) + width + length, None if element is None else element * math.prod(shape))


def item_size(described: Any) -> int | None:
    """Return the bytes of an element of a type, in numpy's description; None if it may hold objects."""
    if isinstance(described, str):
        plain = _PLAIN.fullmatch(described)
        if plain is None:
            return None
        if plain["kind"] is None:
            return 1 if described.endswith("?") else 8
        return int(plain["size"]) * (4 if plain["kind"] == "U" else 1)
    if isinstance(described, list):
        sizes = [_field_size(part) for part in described]
        return None if None in sizes else sum(size for size in sizes if size is not None)
    return None


def _field_size(part: Any) -> int | None:
    """Return the bytes of a field: it has a name, a type, and perhaps a count."""
    if not isinstance(part, tuple) or len(part) not in (2, 3):
        return None
    shape = part[2] if len(part) == 3 else ()
    size = item_size(part[1])
    if size is None or not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        return None
    return size * math.prod(shape)
