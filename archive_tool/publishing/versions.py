"""The next version of a model in a model store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from packaging.version import InvalidVersion, Version

from archive_tool.errors import ArchiveError
from archive_tool.reading.archive import open_archive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FIRST: Final = "1.0"
_SUFFIXES: Final = (".mar", ".tar.gz", ".tgz")


def next_version(store: Path, name: str) -> str:
    """Count up: one more than the first number of the highest version of this model in the store, such as "3.0"."""
    versions = list(_versions(store, name))
    return f"{max(versions).major + 1}.0" if versions else FIRST


def _versions(store: Path, name: str) -> Iterator[Version]:
    """Yield the versions that the manifests of the store's archives tell, whatever the files are called."""
    for path in store.iterdir():
        if path.name.startswith(".") or not (path.is_dir() or path.name.endswith(_SUFFIXES)):
            continue
        try:
            with open_archive(path, allow_unsafe=True) as archive:
                model = archive.manifest.model if archive.manifest else None
            if model is not None and model.model_name == name:
                yield Version(model.model_version or FIRST)
        except (ArchiveError, InvalidVersion, OSError):
            continue  # what is no archive, or has a version that is no number, is not counted
