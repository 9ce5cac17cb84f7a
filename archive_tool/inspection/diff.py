"""The differences of two archives: members, lines of text, tensors. None of their code is run."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final

from archive_tool.errors import ArchiveError
from archive_tool.reading.archive import open_archive

if TYPE_CHECKING:
    from collections.abc import Iterator

    from archive_tool.files import StrPath
    from archive_tool.inspection.tensor_diff import TensorChange
    from archive_tool.reading.archive import Archive

_CHUNK: Final = 1 << 20
#: Longer texts are compared as bytes only: the search for changed lines takes quadratic time.
_TEXT_LIMIT: Final = 1 << 20
_LINES_LIMIT: Final = 5000
_WEIGHTS: Final = frozenset({".pt", ".pth", ".bin", ".ckpt", ".safetensors"})


@dataclass(frozen=True)
class MemberChange:
    """A member that differs between the archives.

    Attributes:
        before, after: its sizes in bytes; None where it is missing.
        text: the lines of a unified diff without its two headings, if both are text.
        tensors: those that differ, if both are weights; None if they are not.
        note: why there is nothing more to show.
    """

    name: str
    before: int | None
    after: int | None
    text: tuple[str, ...] = ()
    tensors: tuple[TensorChange, ...] | None = None
    note: str | None = None

    @property
    def status(self) -> str:
        """The kind of change: added, removed or changed."""
        return "added" if self.before is None else "removed" if self.after is None else "changed"

    def to_dict(self) -> dict[str, Any]:
        """Return the change as JSON."""
        return {
            "name": self.name,
            "status": self.status,
            "before": self.before,
            "after": self.after,
            "text": list(self.text),
            "tensors": None if self.tensors is None else [change.to_dict() for change in self.tensors],
            "note": self.note,
        }


@dataclass(frozen=True)
class Changes:
    """The differences of two archives; false if there are none."""

    first: Path
    second: Path
    members: tuple[MemberChange, ...]

    def __bool__(self) -> bool:
        return bool(self.members)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it as JSON."""
        return {
            "first": str(self.first),
            "second": str(self.second),
            "same": not self.members,
            "members": [change.to_dict() for change in self.members],
        }


def diff(first: StrPath, second: StrPath) -> Changes:
    """Compare two archives, of any format, member by member.

    Raises:
        UnreadableArchiveError, UnsafeArchiveError: one of them cannot be read, or is not safe to read.
    """
    with open_archive(first) as old, open_archive(second) as new:
        before, after = _hashes(old), _hashes(new)
        sizes = ({member.name: member.size for member in archive.members} for archive in (old, new))
        sizes_before, sizes_after = sizes
        changes = []
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                change = MemberChange(name, sizes_before.get(name), sizes_after.get(name))
                changes.append(_detailed(old, new, change) if change.status == "changed" else change)
    return Changes(Path(first), Path(second), tuple(changes))


def _hashes(archive: Archive) -> dict[str, bytes]:
    found = {}
    for entry, stream in archive.stream(list(archive.entries)):
        digest = hashlib.sha256()
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
        found[entry.name] = digest.digest()
    return found


def _detailed(old: Archive, new: Archive, change: MemberChange) -> MemberChange:
    name = change.name
    sizes = (change.before, change.after)
    if PurePosixPath(name).suffix.lower() in _WEIGHTS:
        return _with_tensors(old, new, change)
    text_before, text_after = _text(old, name), _text(new, name)
    if text_before is None or text_after is None:
        return MemberChange(name, *sizes)
    if max(len(text_before), len(text_after)) > _LINES_LIMIT:
        return MemberChange(name, *sizes, note=f"more than {_LINES_LIMIT} lines, which are not compared one by one")
    lines = list(difflib.unified_diff(text_before, text_after, lineterm=""))[2:]
    note = None if lines else "the same lines, with other ends"
    return MemberChange(name, *sizes, text=tuple(lines), note=note)


def _text(archive: Archive, name: str) -> list[str] | None:
    try:
        data = archive.read(name, _TEXT_LIMIT)
        return None if b"\0" in data else data.decode("utf-8").splitlines()
    except (ArchiveError, UnicodeDecodeError):
        return None


def _with_tensors(old: Archive, new: Archive, change: MemberChange) -> MemberChange:
    from archive_tool.inspection.tensor_diff import NotWeightsError, changed_tensors

    sizes = (change.before, change.after)
    with tempfile.TemporaryDirectory(prefix="torchmar-") as folder, contextlib.ExitStack() as stack:
        paths = [
            stack.enter_context(_as_file(archive, change.name, Path(folder) / str(number)))
            for number, archive in enumerate((old, new))
        ]
        try:
            tensors = tuple(changed_tensors(*paths))
        except NotWeightsError as error:
            return MemberChange(change.name, *sizes, note=str(error))
    note = None if tensors else "the same tensors, written differently"
    return MemberChange(change.name, *sizes, tensors=tensors, note=note)


@contextlib.contextmanager
def _as_file(archive: Archive, name: str, path: Path) -> Iterator[Path]:
    """Yield a member as a file, which can be mapped into memory."""
    with archive.open(name) as stream, path.open("wb") as sink:
        while chunk := stream.read(_CHUNK):
            sink.write(chunk)
    yield path
