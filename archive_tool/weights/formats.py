"""Tells what a serialized file is, by the table that workers load by: as what it was built, it is loaded."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from archive_tool import files
from handlers.loading import formats
from handlers.loading.formats import LFS_MAX_BYTES, LFS_PREFIX, MAX_HEADER, Format

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LFS_MAX_BYTES", "LFS_PREFIX", "MAX_HEADER", "Format", "sniff", "sniff_file"]


def sniff(stream: IO[bytes]) -> Format:
    """Tell what a seekable stream holds; see `handlers.loading.formats.sniff`. A zip is read as far as an archive is.

    Raises:
        OSError: it cannot be read.
    """
    from archive_tool.reading import zip_consistency  # takes a while, and not every format needs it

    return formats.sniff(stream, zip_consistency.open_zip)


def sniff_file(path: Path) -> Format:
    """Tell what a file is.

    Raises:
        OSError: it is no regular file, or cannot be read.
    """
    with files.open_regular(path) as stream:
        return sniff(stream)
