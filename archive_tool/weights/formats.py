"""The format of a serialized file, by the table that workers use, so that it is loaded as it was built."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from archive_tool import files
from handlers.loading import formats
from handlers.loading.formats import LFS_MAX_BYTES, LFS_PREFIX, MAX_HEADER, Format

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LFS_MAX_BYTES", "LFS_PREFIX", "MAX_HEADER", "Format", "sniff", "sniff_file", "why_not"]


def sniff(stream: IO[bytes]) -> Format:
    """Return the format of a seekable stream; see `handlers.loading.formats.sniff`. A zip is bounded as an archive is.

    Raises:
        OSError: it cannot be read.
    """
    from archive_tool.reading import zip_consistency  # slow, and not needed for every format

    return formats.sniff(stream, zip_consistency.open_zip)


def sniff_file(path: Path) -> Format:
    """Return the format of a file.

    Raises:
        OSError: it is not a regular file, or cannot be read.
    """
    with files.open_regular(path) as stream:
        return sniff(stream)


def why_not(path: Path) -> tuple[str, str | None] | None:
    """Return why workers load no such file, in their words, and what to do about it; None if they do."""
    try:
        formats.detect_format(path)
    except RuntimeError as error:  # a LoadError
        hint = getattr(error, "hint", None)
        return str(error).partition("\n")[0], None if hint == formats.SUPPORTED else hint
    return None
