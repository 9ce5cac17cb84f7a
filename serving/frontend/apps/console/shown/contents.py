"""What an archive holds, for the model page: read in a thread, one at a time, kept while the file is the same."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from archive_tool.building.vendoring import PACKAGE
from archive_tool.errors import ArchiveError, TorchmarError
from archive_tool.inspection.describe import describe
from archive_tool.metadata.manifest import Manifest
from archive_tool.metadata.record import Record, Sample
from archive_tool.reading.archive import open_archive
from archive_tool.verification.signing import signature_path

#: Archives that are kept, members that are shown, bytes of a sample.
KEPT: Final = 16
MOST_MEMBERS: Final = 500
MOST_SAMPLE: Final = 6_553_500
MOST_SAMPLES: Final = 50


@dataclass(frozen=True)
class Contents:
    """What an archive holds.

    Attributes:
        path: where it is.
        described: what ``torchmar inspect --json`` says; empty where it cannot be read.
        record: torchmar's own part of the manifest; None without one.
        error: why it cannot be read; empty where it can.
        signed: name of the signature beside it; empty without one. Whether it is good, the key's owner can tell.
    """

    path: Path
    described: dict[str, Any] = field(default_factory=dict, hash=False)
    record: Record | None = None
    error: str = ""
    signed: str = ""

    @property
    def served_as(self) -> tuple[str, str] | None:
        """Name and version that its manifest gives the model; None where that cannot be read."""
        model = (self.described.get("manifest") or {}).get("model", {})
        return (model["modelName"], model["modelVersion"]) if {"modelName", "modelVersion"} <= set(model) else None

    @property
    def members(self) -> list[dict[str, Any]]:
        """The members that are shown, with their hashes where the manifest records them; those of the SDK come last."""
        hashes = self.record.members if self.record else {}
        sdk = f"{PACKAGE}/" if self.described.get("sdk") else "/"
        rows = [{**row, "sdk": row["name"].startswith(sdk)} for row in self.described.get("members", [])]
        rows = sorted(rows, key=lambda row: bool(row["sdk"]))[:MOST_MEMBERS]
        return [{**row, "sha256": hashes[row["name"]].sha256 if row["name"] in hashes else ""} for row in rows]

    def size_of(self, name: str) -> int:
        """Return the bytes of a member; 0 where there is none."""
        return next((int(row["size"]) for row in self.described.get("members", []) if row["name"] == name), 0)

    @property
    def left_out(self) -> int:
        """How many members are not shown."""
        return max(0, len(self.described.get("members", [])) - MOST_MEMBERS)

    @property
    def samples(self) -> tuple[Sample, ...]:
        """Requests to try the model with."""
        return self.record.samples[:MOST_SAMPLES] if self.record else ()


class Archives:
    """The archives of a model store.

    Args:
        store: the folder.
    """

    def __init__(self, store: Path) -> None:
        self._store = store
        self._kept: OrderedDict[tuple[str, str, float, int], Contents] = OrderedDict()
        self._one_at_a_time = asyncio.Semaphore(1)

    def path_of(self, url: str) -> Path:
        """Return where an archive is that was registered: in the store, also if it was fetched, or a folder."""
        name = url.rstrip("/").rpartition("/")[2].partition("?")[0]
        inside = self._store / name
        return Path(url) if url.startswith("/") and not inside.exists() else inside

    async def contents(self, url: str) -> Contents:
        """Return what an archive holds."""
        async with self._one_at_a_time:
            return await asyncio.to_thread(self._read, self.path_of(url))

    def _read(self, path: Path) -> Contents:
        try:
            about = path.stat()
        except OSError as error:
            return Contents(path, error=f"{path.name}: {error.strerror}")
        signature = signature_path(path)
        signed = signature.name if signature.is_file() else ""
        key = (str(path), signed, about.st_mtime, about.st_size)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        found = replace(_read(path), signed=signed)
        if not path.is_dir():  # the files of a folder change without it
            self._kept[key] = found
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return found

    async def sample(self, url: str, number: int) -> tuple[Sample, bytes] | None:
        """Return a sample of an archive and the request's body; None where there is none.

        Raises:
            ArchiveError: it cannot be read.
        """
        contents = await self.contents(url)
        if not 0 <= number < len(contents.samples):
            return None
        one = contents.samples[number]
        return one, await self.body(contents, one)

    async def body(self, contents: Contents, sample: Sample) -> bytes:
        """Return the request's body of a sample of an archive.

        Raises:
            ArchiveError: it cannot be read.
        """

        def read() -> bytes:
            with open_archive(contents.path) as archive:
                return archive.read(sample.input, MOST_SAMPLE)

        async with self._one_at_a_time:
            return await asyncio.to_thread(read)

    def of_store(self) -> list[str]:
        """Return the archives of the store, by name."""
        try:
            return sorted(path.name for path in self._store.iterdir() if path.suffix == ".mar" and path.is_file())
        except OSError:
            return []


def _read(path: Path) -> Contents:
    try:
        with open_archive(path, allow_unsafe=True) as archive:
            manifest: Manifest | None = None
            error = ""
            try:
                manifest = archive.manifest
            except ArchiveError as broken:
                error = broken.message
            return Contents(path, describe(archive, manifest), manifest.record if manifest else None, error)
    except (TorchmarError, OSError) as error:
        return Contents(path, error=str(error))
