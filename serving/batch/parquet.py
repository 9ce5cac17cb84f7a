"""Parquet, read a few rows at a time; pyarrow is imported here alone."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import IO, Any, Final

from archive_tool.errors import InputError
from serving.batch.lines import Found
from serving.batch.rows import Columns, RowError

# Rows that are decoded at once; one may be a picture.
_ROWS: Final = 64
_BUFFER: Final = 1 << 20


def check_installed() -> None:
    """Find out whether Parquet can be read.

    Raises:
        InputError: pyarrow is missing.
    """
    _modules()


def _modules() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError(
            f"Parquet is read by pyarrow, which cannot be imported: {error}", hint="pip install 'torchmar[parquet]'"
        ) from error
    return pyarrow, pyarrow.parquet


def parquet_rows(stream: IO[bytes], columns: Columns, size: int) -> Iterator[Found]:
    """Find the rows.

    Args:
        stream: of the file.
        columns: which mean what.
        size: bytes of the file.

    Raises:
        RowError: it is no Parquet, or damaged from here on, or lacks the column that is the request.
        InputError: pyarrow is missing.
    """
    pyarrow, parquet = _modules()
    number = 0
    try:
        file = parquet.ParquetFile(stream, pre_buffer=False, buffer_size=_BUFFER)
        names, count = file.schema_arrow.names, file.metadata.num_rows
        if len(set(names)) < len(names):
            raise RowError("two of its columns have the same name")
        columns.check(names)
        for batch in file.iter_batches(_ROWS):
            for record in batch.to_pylist():
                number += 1
                yield Found(number, partial(columns.content, record), size * number // max(1, count))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        after = f"; {number} rows of it were read" if number else ""
        raise RowError(f"it cannot be read as Parquet: {error}{after}") from error
