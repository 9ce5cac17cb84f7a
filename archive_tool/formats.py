"""Tells what a serialized file is, by the table that workers load by: as what it was built, it is loaded."""

from __future__ import annotations

from handlers.formats import LFS_MAX_BYTES, LFS_PREFIX, Format, sniff, sniff_file

__all__ = ["LFS_MAX_BYTES", "LFS_PREFIX", "Format", "sniff", "sniff_file"]
