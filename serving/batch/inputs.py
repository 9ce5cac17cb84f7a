"""From files and folders to rows, one after the other and in an order that does not change."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final

from archive_tool import files
from archive_tool.building.samples import MAX_REQUEST, content_type_of
from serving.batch import lines, parquet
from serving.batch.rows import Columns, Content, Row, RowError, failing

#: How a file is read, by its ending; else it is one row.
ENDINGS: Final = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
#: Bytes of the rows that are read at once.
_MOST_BYTES: Final = 16 << 20


@dataclass(frozen=True)
class Reading:
    """What is read, and how.

    Attributes:
        paths: files and folders.
        format: file, jsonl, csv, tsv or parquet; None to go by the ending of each file.
        columns: of tables.
        labels: file with a label a line, for one row after the other; None for none.
        most: bytes of a row.
        delimiter: between the fields of CSV; None for a comma, and a tab in .tsv.
    """

    paths: tuple[Path, ...]
    format: str | None = None
    columns: Columns = field(default_factory=Columns)
    labels: Path | None = None
    most: int = MAX_REQUEST
    delimiter: str | None = None

    def kind(self, path: Path) -> str:
        """Return the format of a file."""
        return self.format or ENDINGS.get(path.suffix.lower(), "file")

    def files(self) -> Iterator[Path]:
        """Yield every file: those of a folder, and of the folders in it, by name; hidden ones are left out.

        What cannot be read is among them, and its row tells why: a link to nothing, a pipe, a folder that is closed to
        us. So is a link to a folder: followed, it could lead anywhere, and round in a circle.
        """
        for path in self.paths:
            yield from _files(path)

    def size(self) -> int:
        """Return the bytes of all of them."""
        return sum(_size(path) for path in self.files())

    def rows(self) -> Iterator[Row]:
        """Yield every row."""
        begin = 0
        for path in self.files():
            size = _size(path)
            for row in self._rows_of(path, size):
                yield replace(row, position=begin + row.position)
            begin += size

    def _rows_of(self, path: Path, size: int) -> Iterator[Row]:
        name, kind = str(path), self.kind(path)
        if kind == "file":
            yield Row(name, None, partial(_whole, path, self.most), "", size)
            return
        stamp, last = "", 0
        try:
            with files.open_regular(path) as stream:
                status = os.fstat(stream.fileno())
                stamp = f"{status.st_size} {status.st_mtime_ns}"
                for number, content, position in self._table(kind, stream, status.st_size):
                    last = position
                    yield Row(name, number, content, stamp, position)
        except RowError as error:
            yield Row(name, None, failing(error), stamp, last)
        except OSError as error:
            yield Row(name, None, failing(_unreadable(path, error)), stamp, last)

    def _table(self, kind: str, stream: IO[bytes], size: int) -> Iterator[lines.Found]:
        if kind == "parquet":
            return parquet.parquet_rows(stream, self.columns, size)
        if kind == "jsonl":
            return lines.json_lines(stream, self.columns, self.most)
        return lines.csv_rows(stream, self.columns, self.most, self.delimiter or ("\t" if kind == "tsv" else ","))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0  # it says so when it is read


def _files(path: Path) -> Iterator[Path]:
    left = [(path, path.is_dir())]  # no recursion: a tree may be deeper than Python's stack
    while left:
        path, is_folder = left.pop()
        if not is_folder:
            yield path
            continue
        try:
            with os.scandir(path) as found:
                named = ((entry.name, entry.is_dir(follow_symlinks=False)) for entry in found)
                inside = sorted(one for one in named if not one[0].startswith("."))
        except OSError:
            yield path
            continue
        left += [(path / name, is_folder) for name, is_folder in reversed(inside)]


def _whole(path: Path, most: int) -> Content:
    try:
        return Content(files.read_regular(path, most), content_type_of(path.name))
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> RowError:
    if isinstance(error, IsADirectoryError):
        try:
            os.scandir(path).close()
        except OSError as refused:
            error = refused
        else:
            return RowError("it is a link to a folder, which is not followed; it can be an input of its own")
    return RowError(f"it cannot be read: {error.strerror or error}")


@dataclass(frozen=True, slots=True)
class Taken:
    """A row that was read.

    Attributes:
        row: which.
        content: what is sent; None if it cannot be.
        error: why not.
        label: what the answer should be; None if that is not known.
    """

    row: Row
    content: Content | None
    error: RowError | None = None
    label: Any = None

    @property
    def size(self) -> int:
        """Bytes of what is sent."""
        return 0 if self.content is None else len(self.content.body)


class Rows:
    """The rows of a job, with their labels, to be taken a few at a time; in a thread, since files may be slow.

    Attributes:
        unlabelled: rows for which the file of labels has no line.
        left: whether it has labels after the last row.
    """

    def __init__(self, reading: Reading) -> None:
        self.unlabelled, self.left = 0, False
        self._most = reading.most
        self._rows = reading.rows()
        self._labels = _labels(reading.labels) if reading.labels else None

    def close(self) -> None:
        """Close the files."""
        self._rows.close()  # type: ignore[attr-defined]
        if self._labels is not None:
            self._labels.close()  # type: ignore[attr-defined]

    def skip(self, count: int) -> Iterator[bytes]:
        """Pass over rows without reading what they hold; yield their identities, fewer where there are fewer."""
        for row in islice(self._rows, count):
            self._label()
            yield row.identity

    def take(self, most: int) -> Sequence[Taken]:
        """Take the next rows, fewer where they are large; none at the end."""
        found: list[Taken] = []
        size = 0
        while len(found) < most and size < _MOST_BYTES and (row := next(self._rows, None)) is not None:
            label = self._label()
            try:
                content = row.content()
                if len(content.body) > self._most:
                    raise RowError(f"it has more than {self._most} bytes")
                size += len(content.body)
                found.append(Taken(row, content, None, content.label if label is None else label))
            except RowError as error:
                found.append(Taken(row, None, error, label))
        if not found and self._labels is not None:
            self.left = any(self._labels)
        return found

    def _label(self) -> str | None:
        if self._labels is None:
            return None
        for label in self._labels:
            return label
        self.unlabelled += 1
        return None


def _labels(path: Path) -> Iterator[str | None]:
    with closing(files.open_regular(path)) as stream:
        found = lines.Lines(stream, MAX_REQUEST)
        while (line := found.next()) is not None:
            yield line[0].decode("utf-8", "replace").strip() or None
