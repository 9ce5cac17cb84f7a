"""The copy of the handler SDK in an archive: its version, and whether a newer one is installed here."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from packaging.version import InvalidVersion, Version

from archive_tool.building import vendoring
from archive_tool.errors import ArchiveError, BuildError
from archive_tool.version import __version__

if TYPE_CHECKING:
    from archive_tool.metadata.manifest import Manifest
    from archive_tool.reading.archive import Archive, ArchiveMember

PREFIX: Final = f"{vendoring.PACKAGE}/"
#: The members that distinguish the SDK from a user's package of the same name.
_MARKS: Final = frozenset({f"{PREFIX}__init__.py", f"{PREFIX}base.py", f"{PREFIX}py.typed"})


@dataclass(frozen=True)
class SdkCopy:
    """An archive's copy of the SDK.

    Attributes:
        version: of the torchmar that put it there; None if the archive does not say.
        members: how many files.
        size, packed: their bytes.
        installed: the version that is installed here.
        state: "current" if it is the installed one, "older" or "newer" by its version, else "different".
    """

    version: str | None
    members: int
    size: int
    packed: int
    installed: str
    state: str

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as a JSON-ready object."""
        return asdict(self)


def members_of(archive: Archive) -> list[ArchiveMember]:
    """List the files of the SDK's copy; empty if there is none."""
    found = [member for member in archive.members if member.name.startswith(PREFIX)]
    return found if {member.name for member in found} >= _MARKS else []


def find(archive: Archive, manifest: Manifest | None) -> SdkCopy | None:
    """Find an archive's copy of the SDK; None if it has none."""
    members = members_of(archive)
    if not members:
        return None
    try:
        record = manifest.record if manifest else None
    except ArchiveError:
        record = None
    version = record.tool_version if record else None
    recorded = {name: one.sha256 for name, one in record.members.items()} if record else {}
    return SdkCopy(
        version=version,
        members=len(members),
        size=sum(member.size for member in members),
        packed=sum(member.packed for member in members),
        installed=__version__,
        state=_state(version, {member.name: recorded.get(member.name) for member in members}),
    )


def _state(version: str | None, hashes: dict[str, str | None]) -> str:
    if hashes == _installed():
        return "current"
    try:
        theirs, ours = Version(version or ""), Version(__version__)
    except InvalidVersion:
        return "different"
    if theirs == ours:
        return "different"
    return "older" if theirs < ours else "newer"


def _installed() -> dict[str, str]:
    try:
        sources = vendoring.sdk_members(vendoring.find_sdk())
    except BuildError:
        return {}
    return {
        one.name: hashlib.sha256(one.source if isinstance(one.source, bytes) else one.source.read_bytes()).hexdigest()
        for one in sources
    }
