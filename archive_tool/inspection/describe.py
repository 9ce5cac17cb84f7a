"""The description of an archive that `inspect` prints, as one JSON-ready object. Nothing is unpacked to disk or run."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from archive_tool.config import effective
from archive_tool.config.safe_yaml import MAX_BYTES
from archive_tool.errors import ArchiveError
from archive_tool.inspection import compiled, obstacles, sdk_copy
from archive_tool.metadata.manifest import ZIP_EPOCH, format_time
from archive_tool.weights import tensors
from archive_tool.weights.formats import Format, sniff

if TYPE_CHECKING:
    from archive_tool.metadata.manifest import Manifest
    from archive_tool.reading.archive import Archive, ArchiveMember

# A packed member up to this size is unpacked in memory to find its format; of larger ones only the start.
_SNIFF_LIMIT: Final = 64 << 20
# Seconds after which no further member is analyzed; an honest archive of hundreds of files takes two or three.
_PATIENCE_S: Final = 30.0


def describe(archive: Archive, manifest: Manifest | None) -> dict[str, Any]:
    """Return the object that ``inspect --json`` prints.

    Args:
        archive: open, safe to unpack or not.
        manifest: the archive's; None if it has none, or one that cannot be read.
    """
    members, weights = [], []
    deadline = time.monotonic() + _PATIENCE_S
    for member in archive.members:
        kind, found = _look(archive, member) if time.monotonic() < deadline else (None, None)
        members.append(
            {
                "name": member.name,
                "size": member.size,
                "packed": member.packed,
                "method": member.method,
                "format": kind.value if kind and kind is not Format.UNKNOWN else None,
            }
        )
        if found is not None and found.tensors:
            weights.append({"member": member.name, **_weights(found)})
    config = _config(archive, manifest)
    return {
        "path": str(archive.path),
        "archiveFormat": archive.archive_format,
        "size": archive.size,
        "manifest": manifest.to_dict() if manifest else None,
        "reproducible": bool(manifest and manifest.created_on == format_time(ZIP_EPOCH)),
        "members": members,
        "sdk": copy.to_dict() if (copy := sdk_copy.find(archive, manifest)) else None,
        "weights": weights,
        "memory": sum(entry["size"] for entry in weights) or None,
        "handler": _handler(archive, manifest),
        "config": _config_dict(config),
        "compiled": _compiled(manifest, config),
        "obstacles": _obstacles(archive, manifest, config),
        "problems": list(archive.problems),
    }


def _look(archive: Archive, member: ArchiveMember) -> tuple[Format | None, tensors.Weights | None]:
    """Return a member's format and tensors."""
    from archive_tool.writing.writer import STORED_SUFFIXES

    if Path(member.name).suffix.lower() not in STORED_SUFFIXES:
        return None, None
    try:
        stream = archive.peek(member.name)
        if stream is None and member.size > _SNIFF_LIMIT:
            with archive.open(member.name) as packed:
                return tensors.read_start(packed) or (None, None)
        with stream or io.BytesIO(archive.read(member.name, _SNIFF_LIMIT)) as seekable:
            kind = sniff(seekable)
            return kind, tensors.read(seekable, kind)
    except (ArchiveError, OSError):
        return None, None  # one unreadable member is no reason to hide the others


def _weights(weights: tensors.Weights) -> dict[str, Any]:
    return {
        "tensors": len(weights.tensors),
        "parameters": weights.parameters,
        "dtypes": weights.types,
        "size": weights.size,
        "needs": list(weights.needs),
    }


def _handler(archive: Archive, manifest: Manifest | None) -> dict[str, str] | None:
    found = obstacles.entry_point(archive, manifest) if manifest else None
    return found.to_dict() if found else None


def _compiled(manifest: Manifest | None, config: effective.Effective) -> dict[str, Any] | None:
    found = compiled.check(manifest, config) if manifest else None
    return found.to_dict() if found else None


def _config(archive: Archive, manifest: Manifest | None) -> effective.Effective:
    name = manifest.model.config_file if manifest else None
    text = None
    if name:
        try:
            text = archive.read(name, MAX_BYTES)
        except ArchiveError:
            text = None  # `obstacles` reports that it is missing
    return effective.understand(text)


def _config_dict(config: effective.Effective) -> dict[str, Any]:
    return {
        "settings": {
            setting.key: {"value": effective.plain(setting.value), "source": setting.source}
            for setting in config.settings
        },
        "ignored": {item.key: item.reason for item in config.ignored},
        "forHandler": list(config.for_handler),
        "notes": list(config.notes),
    }


def _obstacles(archive: Archive, manifest: Manifest | None, config: effective.Effective) -> list[dict[str, str]]:
    return [found.to_dict() for found in obstacles.find(archive, manifest, config)] if manifest else []
