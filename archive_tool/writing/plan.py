"""The members of an archive and its manifest, as values, before they are written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from archive_tool.metadata.manifest import Manifest


@dataclass(frozen=True)
class Member:
    """One file of an archive: its name in there, and the file or the bytes to take it from."""

    name: str
    source: Path | bytes

    @property
    def shown(self) -> str:
        """What to call it in messages: the file that it is taken from, if there is one."""
        return self.name if isinstance(self.source, bytes) else str(self.source)


@dataclass(frozen=True)
class Plan:
    """All that an archive will hold: its members, sorted by name, and the manifest, which is written after them."""

    model_name: str
    members: tuple[Member, ...]
    manifest: Manifest
    seconds: int

    @classmethod
    def of(cls, members: Iterable[Member], manifest: Manifest, seconds: int) -> Plan:
        """Plan an archive of the model that a manifest names."""
        ordered = sorted(members, key=lambda member: member.name)
        return cls(manifest.model.model_name, tuple(ordered), manifest, seconds)


def with_members(old: Plan, added: list[Member]) -> Plan:
    """Return the plan with more members in it."""
    return Plan.of((*old.members, *added), old.manifest, old.seconds)
