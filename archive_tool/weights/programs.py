"""Checking saved programs (torch.export) by the table that workers use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from handlers.loading import program_members
from handlers.loading.program_members import Members, colliding, is_program

if TYPE_CHECKING:
    import zipfile
    from collections.abc import Sequence

__all__ = ["Members", "colliding", "is_program", "look_into"]


def look_into(archive: zipfile.ZipFile, names: Sequence[str]) -> Members:
    """Check the members of a zip if torch.export would load it; see `handlers.loading.program_members`.

    Args:
        archive: the zip.
        names: of the members to read.
    """
    from archive_tool.reading import zip_consistency
    from archive_tool.reading.containers import MAX_MEMBERS

    if not is_program(archive.namelist()):
        return Members()
    found = program_members.look_into(names, archive.open, lambda stream: zip_consistency.open_zip(stream, MAX_MEMBERS))
    found.pickles = {name.lower() for name in found.pickles}
    return found
