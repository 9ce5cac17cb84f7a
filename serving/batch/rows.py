"""A row of the input, and what is sent for it."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final

from archive_tool import json_text

JSON: Final = "application/json"
TEXT: Final = "text/plain"
BINARY: Final = "application/octet-stream"
#: What follows the name of a column whose bytes are in base64, in what a server has captured.
BASE64: Final = "_base64"
#: Bytes of a bad row that its failure shows.
SHOWN: Final = 2_000
_NAMES_SHOWN: Final = 10
_LARGEST: Final = sys.float_info.max


class RowError(Exception):
    """A row that cannot be sent; the text says why.

    Args:
        message: what is wrong with it.
        raw: the row as it stands in its file, or the begin of it.
    """

    def __init__(self, message: str, raw: bytes = b"") -> None:
        super().__init__(message)
        self.raw = raw


@dataclass(frozen=True, slots=True)
class Content:
    """What is sent for a row.

    Attributes:
        body: of the request.
        content_type: of the body.
        label: what the answer should be; None if that is not known.
    """

    body: bytes
    content_type: str
    label: Any = None


@dataclass(frozen=True, slots=True)
class Row:
    """A row.

    Attributes:
        source: the file.
        number: of the line in it (JSON lines, CSV), or of the row (Parquet), from 1; None where the file is the row.
        content: makes what is sent, or raises a `RowError`.
        stamp: of the file: where it changes, it is another one.
        position: bytes of all inputs that are read with it.
    """

    source: str
    number: int | None
    content: Callable[[], Content]
    stamp: str = ""
    position: int = 0

    @property
    def identity(self) -> bytes:
        """What no other row of the job has, unless its file is named twice."""
        return f"{self.source}\0{self.number}\0{self.stamp}\n".encode("utf-8", "surrogateescape")


def failing(error: RowError) -> Callable[[], Content]:
    """Return the content of a row that has none."""

    def fail() -> Content:
        raise error

    return fail


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns of a table mean what.

    Attributes:
        input: that is the request; None for all but the label.
        label: what the answer should be; None for none.
    """

    input: str | None = None
    label: str | None = None

    def __bool__(self) -> bool:
        return self.input is not None or self.label is not None

    def check(self, names: Collection[str], raw: bytes = b"") -> None:
        """Make sure that a table, whose rows all have the same columns, has these.

        Raises:
            RowError: one is not there.
        """
        for name in (self.input, self.label):
            if name is not None and name not in names:
                raise RowError(f"it has no column {name!r}, but {_listed(names)}", raw)

    def content(self, record: Mapping[str, Any], raw: bytes = b"") -> Content:
        """Make what is sent for a row of a table.

        Raises:
            RowError: it lacks the column, or has what JSON does not have.
        """
        label = None if self.label is None else record.get(self.label)
        label = None if label == "" else label
        if self.input is None:
            rest = {name: value for name, value in record.items() if name != self.label}
            return Content(_dumped(rest, raw), JSON, label)
        if self.input not in record and f"{self.input}{BASE64}" in record:
            return Content(_unpacked(record[f"{self.input}{BASE64}"], raw), BINARY, label)
        if self.input not in record:
            raise RowError(f"it has no column {self.input!r}, but {_listed(record)}", raw)
        value = record[self.input]
        if isinstance(value, bytes):
            return Content(value, BINARY, label)
        if isinstance(value, str):
            return Content(value.encode("utf-8", "backslashreplace"), TEXT, label)
        return Content(_dumped(value, raw), JSON, label)


def _unpacked(text: Any, raw: bytes) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError) as error:
        raise RowError(f"it is no base64: {error}", raw) from error


def _listed(columns: Collection[str]) -> str:
    names = [repr(name[:SHOWN]) for name in columns][: _NAMES_SHOWN + 1]
    return ", ".join(names[:_NAMES_SHOWN]) + (", ..." if len(names) > _NAMES_SHOWN else "") or "none at all"


def _dumped(value: Any, raw: bytes) -> bytes:
    try:
        return json_text.dumps(value, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise RowError(f"it cannot be written as JSON: {error}", raw) from error


def _plain(value: Any) -> str:
    """Write times, decimals and ids as text."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        raise TypeError("a column holds bytes; --column names the one that is the request")
    return str(value)


def number_in(text: str) -> int | float | None:
    """Return the number that a text is in JSON; None if it is none, or none that `is_number` takes."""
    try:
        value = json.loads(text, parse_constant=_none)
    except (ValueError, RecursionError):
        return None
    return value if is_number(value) else None


def is_number(value: Any) -> bool:
    """Return whether a value is a number that a float can hold: not infinite, and no whole number beyond all floats."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return -_LARGEST <= value <= _LARGEST


def _none(text: str) -> None:
    raise ValueError(text)
