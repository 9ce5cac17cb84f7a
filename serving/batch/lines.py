"""JSON lines and CSV, read as a stream: a line is bounded, and a bad one is a failure of its row alone."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import partial
from typing import IO, Any, Final, NamedTuple

from archive_tool import json_text
from serving.batch.rows import JSON, SHOWN, Columns, Content, RowError, failing, number_in

_CHUNK: Final = 1 << 20
_BOM: Final = b"\xef\xbb\xbf"
# Characters of a number; what is longer stays text.
_MOST_DIGITS: Final = 64
# How a mark is written on a command line.
_NAMED: Final = {"\t": "tab", ";": "';'"}


class Found(NamedTuple):
    """A row of a table.

    Attributes:
        number: of its (first) line, or of the row, from 1.
        content: makes what is sent.
        position: bytes of the file that are read with it.
    """

    number: int
    content: Any
    position: int


class Lines:
    """The lines of a file, none longer than a bound.

    Attributes:
        number: of the last line, from 1.
        position: bytes that were read.
    """

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._stream, self._most = stream, most
        self.number = 0
        self.position = 0

    def next(self) -> tuple[bytes, bool] | None:
        """Return the next line without its end, and whether it is whole; of a longer one the begin. None at the end.

        Raises:
            OSError: the file cannot be read.
        """
        data = self._stream.readline(self._most + 2)
        if not data:
            return None
        self.position += len(data)
        self.number += 1
        line = data.rstrip(b"\r\n")
        if self.number == 1:
            line = line.removeprefix(_BOM)
        if len(line) <= self._most and (data.endswith(b"\n") or len(data) < self._most + 2):
            return line, True
        while data and not data.endswith(b"\n"):
            data = self._stream.readline(_CHUNK)
            self.position += len(data)
        return line[:SHOWN], False


def json_lines(stream: IO[bytes], columns: Columns, most: int) -> Iterator[Found]:
    """Find the rows of JSON lines; blank lines are none. Without columns a line is sent as it stands.

    Args:
        stream: of the file.
        columns: which mean what.
        most: bytes of a line.

    Raises:
        OSError: the file cannot be read.
    """
    lines = Lines(stream, most)
    while (found := lines.next()) is not None:
        line, whole = found
        if not whole:
            content = failing(RowError(f"the line has more than {most} bytes", line))
            yield Found(lines.number, content, lines.position)
        elif line.strip():
            yield Found(lines.number, partial(_of_json, line, columns, most), lines.position)


def _of_json(line: bytes, columns: Columns, most: int) -> Content:
    try:
        record = json_text.loads(line, max_bytes=most)
    except json_text.NotJsonError as error:
        raise RowError(f"the line is no JSON: {error}", line) from error
    if not columns:
        return Content(line.strip(), JSON)
    if not isinstance(record, dict):
        raise RowError("the line is no JSON object, and so has no columns", line)
    return columns.content(record, line)


def csv_rows(stream: IO[bytes], columns: Columns, most: int, delimiter: str = ",") -> Iterator[Found]:
    """Find the rows of CSV: the first one names the columns.

    Args:
        stream: of the file.
        columns: which mean what.
        most: bytes of a row.
        delimiter: between the fields.

    Raises:
        RowError: the first row names no columns, or not the one that is the request.
        OSError: the file cannot be read.
    """
    csv.field_size_limit(max(csv.field_size_limit(), most))
    lines = _Texts(stream, most)
    records = _records(lines, delimiter)
    header = next(records, None)
    if header is None:
        return
    names = _header(header, columns, delimiter)
    for number, raw, fields in records:
        yield Found(number, partial(_of_fields, names, fields, columns, raw), lines.position)


def _header(found: tuple[int, bytes, list[str] | RowError], columns: Columns, delimiter: str) -> list[str]:
    _, raw, names = found
    if isinstance(names, RowError):
        raise RowError(f"the row that names the columns cannot be read: {names}", raw)
    seen: set[str] = set()
    for number, name in enumerate(names, 1):
        if not name:
            raise RowError(f"the first row must name the columns: column {number} has no name", raw)
        if name in seen:
            raise RowError(f"the first row must name the columns: two are called {name[:SHOWN]!r}", raw)
        seen.add(name)
    other = next((mark for mark in ";\t," if mark != delimiter and mark in names[0]), None) if len(names) == 1 else None
    if other is not None:
        # As spreadsheets of half the world write it: each row would be one text, and no error anywhere.
        named = names[0][:SHOWN]
        asked = f"say --delimiter {_NAMED.get(other, repr(other))}, if it is {other!r}"
        raise RowError(f"the first row names one column, {named!r}, divided by {delimiter!r}; {asked}", raw)
    columns.check(names, raw)
    return names


def _of_fields(names: list[str], fields: list[str] | RowError, columns: Columns, raw: bytes) -> Content:
    if isinstance(fields, RowError):
        raise fields
    if len(fields) != len(names):
        raise RowError(f"it has {len(fields)} fields, but there are {len(names)} columns", raw)
    record: dict[str, Any] = dict(zip(names, fields, strict=True))
    if columns.input is None:
        record = {name: value if name == columns.label else _value(value) for name, value in record.items()}
    return columns.content(record, raw)


def _value(text: str) -> Any:
    """Return a number where JSON has the same one, else the text."""
    if len(text) > _MOST_DIGITS or text.strip() != text:
        return text
    number = number_in(text)
    return text if number is None else number


def _records(lines: _Texts, delimiter: str) -> Iterator[tuple[int, bytes, list[str] | RowError]]:
    """Yield first line, text and fields of each row; after what is none, reading goes on with the next line."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    while True:
        lines.begin()
        number = lines.number + 1
        fields: list[str] | RowError
        try:
            fields = next(reader)
        except StopIteration:
            return
        except (csv.Error, RowError) as error:
            last = f" (lines {number} to {lines.number})" if lines.number > number else ""
            fields = RowError(f"it is no row of CSV: {error}{last}", lines.raw)
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
        if fields:  # a blank line is no row
            yield number, lines.raw, fields


class _Texts:
    """Lines of text for the parser, which takes as many as a row has: bounded together."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._lines, self._most = Lines(stream, most), most
        self._held: list[bytes] = []
        self._size = 0

    @property
    def number(self) -> int:
        return self._lines.number

    @property
    def position(self) -> int:
        return self._lines.position

    @property
    def raw(self) -> bytes:
        """The row as it stands in the file."""
        return b"\n".join(self._held)

    def begin(self) -> None:
        """Begin a row."""
        self._held, self._size = [], 0

    def __iter__(self) -> _Texts:
        return self

    def __next__(self) -> str:
        found = self._lines.next()
        if found is None:
            raise StopIteration
        line, whole = found
        self._size += len(line) + 1
        if not whole or self._size > self._most + 1:
            self._held = [self.raw[:SHOWN] or line]
            raise RowError(f"it has more than {self._most} bytes; perhaps a quotation mark is not closed")
        self._held.append(line)
        if b"\0" in line:
            raise RowError("it has a NUL")
        try:
            return line.decode("utf-8") + "\n"
        except UnicodeDecodeError:
            raise RowError("it is not UTF-8") from None
