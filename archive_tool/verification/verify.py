"""Finding everything that is wrong with an archive before it is used. Nothing of it is run."""

from __future__ import annotations

import hashlib
import io
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from archive_tool.errors import ArchiveError, InputError
from archive_tool.issues import Issue, Kind, worst
from archive_tool.pickles.budget import Budget
from archive_tool.reading.archive import open_archive
from archive_tool.verification import rules

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from archive_tool.files import StrPath
    from archive_tool.reading.archive import Archive
    from archive_tool.reading.containers import Entry

_CHUNK: Final = 1 << 20
_HEAD: Final = 512
#: A packed member that must be checked is kept in memory up to this size, and in a temporary file beyond it.
_IN_MEMORY: Final = 64 << 20


@dataclass(frozen=True)
class Verification:
    """The findings in one archive.

    Attributes:
        members: how many files it holds.
        recorded: the manifest records a hash of each member.
        signed: a signature was requested and is good; None if none was requested.
        issues: everything that is wrong, and notes.
    """

    path: Path
    members: int
    recorded: bool
    signed: bool | None
    issues: tuple[Issue, ...]

    @property
    def kind(self) -> Kind | None:
        """The worst kind of issue; None if the archive is good."""
        return worst(self.issues)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        return {
            "path": str(self.path),
            "status": self.kind.value if self.kind else "good",
            "members": self.members,
            "recorded": self.recorded,
            "signed": self.signed,
            "issues": [issue.to_dict() for issue in self.issues],
        }


def verify(path: StrPath, *, key: StrPath | None = None, allow_pickles: Collection[str] = ()) -> Verification:
    """Read an archive from end to end and collect every issue.

    Args:
        path: a ``.mar``, a ``.tar.gz`` or a folder.
        key: a public key in PEM; the archive must have a signature beside it that was made with its private key.
        allow_pickles: names of members that may run code when they are loaded.

    Raises:
        InputError: the key cannot be used, or there is no room for a temporary file.
    """
    location = Path(path)
    issues: list[Issue] = []
    signed = None
    if key is not None:
        issues += _signature_issues(location, key)
        signed = not issues
    try:
        with open_archive(location, allow_unsafe=True) as archive:
            issues += archive.issues
            issues += rules.static_issues(archive)
            issues += _content_issues(archive, allow_pickles)
            recorded = _recorded(archive)
            members = len(archive.members)
    except ArchiveError as error:
        return Verification(location, 0, recorded=False, signed=signed, issues=(*issues, rules.as_issue(error)))
    return Verification(location, members, recorded, signed, tuple(dict.fromkeys(issues)))


def _recorded(archive: Archive) -> bool:
    try:
        record = archive.manifest.record if archive.manifest else None
    except ArchiveError:
        return False
    return record is not None and bool(record.members)


def _signature_issues(path: Path, key: StrPath) -> Iterator[Issue]:
    from archive_tool.verification.signing import check_signature

    try:
        check_signature(path, key)
    except ArchiveError as error:
        yield rules.as_issue(error)


def _content_issues(archive: Archive, allow_pickles: Collection[str]) -> Iterator[Issue]:
    """Read each member: is it whole, does it match its record, and what does it run?"""
    if archive.is_bomb:
        return
    # Members that are bombs, links or overlap are reported already, and not read.
    told = {issue.member for issue in archive.issues if issue.kind is Kind.UNSAFE}
    wanted = [entry for entry in archive.entries if entry.kind == "file" and entry.raw_name not in told]
    budget = Budget(archive.size)
    batches = [wanted] if archive.archive_format == "tgz" else [[entry] for entry in wanted]
    for batch in batches:
        try:
            for entry, stream in archive.stream(batch):
                yield from _member_issues(archive, entry, stream, allow_pickles, budget)
        except ArchiveError as error:  # one damaged member of a zip does not hide what is wrong with the others
            yield rules.as_issue(error, batch[0].name if len(batch) == 1 else None)


def _member_issues(
    archive: Archive, entry: Entry, stream: IO[bytes], allow_pickles: Collection[str], budget: Budget
) -> Iterator[Issue]:
    head = stream.read(_HEAD)
    look = entry.name not in allow_pickles and rules.may_unpickle(archive, entry.name, head, budget)
    within = archive.peek_entry(entry) if look else None
    digest = hashlib.sha256(head)
    keep = look and within is None
    with _scratch(entry if keep else None) as kept:
        chunk = head
        while chunk:
            if keep:
                kept.write(chunk)
            chunk = stream.read(_CHUNK)
            digest.update(chunk)
        yield from rules.head_issues(archive, entry, head)
        yield from rules.hash_issues(archive, entry, digest.hexdigest())
        yield from rules.early_end_issues(archive, entry)
        if keep:
            kept.seek(0)
            yield from rules.pickle_issues(archive, entry.name, kept, budget)
    if within is not None:
        with within:
            yield from rules.pickle_issues(archive, entry.name, within, budget)


def _scratch(entry: Entry | None) -> IO[bytes]:
    """Return a file to keep a packed member in while it is checked."""
    if entry is None or entry.size <= _IN_MEMORY:
        return io.BytesIO()
    free = shutil.disk_usage(tempfile.gettempdir()).free
    if entry.size > free:
        raise InputError(
            f"to look into {entry.name!r}, {entry.size} bytes are needed, and {free} are free",
            where=tempfile.gettempdir(),
            hint="name a larger folder in TMPDIR",
        )
    return tempfile.TemporaryFile()
