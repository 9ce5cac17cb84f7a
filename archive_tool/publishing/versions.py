"""The next version of a model in a model store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from packaging.version import InvalidVersion, Version

from archive_tool.errors import ArchiveError
from archive_tool.metadata.manifest import FIRST_VERSION
from archive_tool.reading.archive import open_archive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SUFFIXES: Final = (".mar", ".tar.gz", ".tgz")


def next_version(store: Path, name: str) -> str:
    """Return the next version: one above the first number of the highest one of this model in the store."""
    versions = list(_versions(store, name))
    return f"{max(versions).major + 1}.0" if versions else FIRST_VERSION


def _versions(store: Path, name: str) -> Iterator[Version]:
    """Yield the versions in the manifests of the store's archives, whatever the files are called."""
    for path in store.iterdir():
        if path.name.startswith(".") or not (path.is_dir() or path.name.endswith(_SUFFIXES)):
            continue
        try:
            with open_archive(path, allow_unsafe=True) as archive:
                model = archive.manifest.model if archive.manifest else None
            if model is not None and model.model_name == name:
                yield Version(model.version)
        except (ArchiveError, InvalidVersion, OSError):
            continue  # other files, and versions that are not numbers, do not count
