"""Finds files that would run code when they are loaded: checkpoints of torch, pickles, and archives of such.

Nothing is unpickled. The verdict is an allow-list, the one of ``torch.load(weights_only=True)`` and a few types of
numbers: what imports anything else is refused. A list of known attacks, that of picklescan, names those in the
message; it is a second reader of each pickle, too. What cannot be read to the end is refused as well.
"""

from __future__ import annotations

import gzip
import io
import logging
import re
import tarfile
import zipfile
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Final, cast

from archive_tool import pickles, zip_layout
from archive_tool.containers import MAX_MEMBERS, growth_problem
from archive_tool.issues import Kind
from archive_tool.streams import DAMAGE, MAX_READ

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Files that are unpickled as they are, whatever they begin with: pickles of protocol 0 have no mark.
PICKLE_SUFFIXES: Final = frozenset(
    {".bin", ".ckpt", ".dat", ".data", ".joblib", ".model", ".npz", ".p", ".pickle", ".pk", ".pkl"}
    | {".pt", ".pth", ".ptl", ".sav", ".tar"}
)
_PROTOCOLS: Final = tuple(bytes((0x80, version)) for version in range(6))
_NUMPY: Final = b"\x93NUMPY"
_ZIP: Final = b"PK\x03\x04"
_GZIP: Final = b"\x1f\x8b"
_TAR: Final = (257, b"ustar")
_HEAD: Final = 512
#: Archives in archives that are looked into.
_MAX_DEPTH: Final = 3
#: picklescan keeps a pickle's instructions in memory; one that is longer is read by us alone.
_SECOND_READER: Final = 1 << 18
_SHOWN: Final = 6


def may_be_one(name: str, head: bytes) -> bool:
    """Whether a file is to be looked into; from its name and its first 512 bytes."""
    if head.startswith((*_PROTOCOLS, _ZIP, _NUMPY, _GZIP)) or head[_TAR[0] :].startswith(_TAR[1]):
        return True
    return PurePosixPath(name).suffix.lower() in PICKLE_SUFFIXES


def scan(stream: IO[bytes], name: str, budget: pickles.Budget | None = None) -> Iterator[str]:
    """Say what a file would run when it is loaded, each time as the end of a sentence that begins with its name.

    Args:
        stream: seekable, at its start.
        name: of the file; its suffix counts.
        budget: of instructions; by default one for this file.

    Raises:
        ArchiveError, OSError: the stream itself cannot be read.
    """
    yield from dict.fromkeys(_scan(stream, name, _MAX_DEPTH, budget or pickles.Budget()))


def _scan(stream: IO[bytes], name: str, depth: int, budget: pickles.Budget) -> Iterator[str]:
    head = _read_head(stream)
    if not may_be_one(name, head):
        return
    packed = head.startswith((_ZIP, _GZIP)) or head[_TAR[0] :].startswith(_TAR[1])
    if packed and depth == 0:
        yield f"holds archives in archives, more than {_MAX_DEPTH} deep"
    elif head.startswith(_ZIP):
        yield from _scan_zip(stream, name, depth, budget)
    elif head.startswith(_GZIP):
        yield from _scan_gzip(stream, name, depth, budget)
    elif head[_TAR[0] :].startswith(_TAR[1]):
        yield from _scan_tar(stream, depth, budget)
    elif head.startswith(_NUMPY):
        yield from _scan_numpy(stream, head, budget)
    else:
        yield from _scan_pickle(stream, budget)


def _read_head(stream: IO[bytes]) -> bytes:
    head = b""
    while len(head) < _HEAD and (more := stream.read(_HEAD - len(head))):
        head += more
    stream.seek(0)
    return head


def _scan_zip(stream: IO[bytes], name: str, depth: int, budget: pickles.Budget) -> Iterator[str]:
    """A checkpoint of torch, which is a zip with pickles in it; or any other zip."""
    weights = PurePosixPath(name).suffix.lower() in PICKLE_SUFFIXES
    try:
        with zipfile.ZipFile(stream) as archive:
            infos = archive.infolist()
            if len(infos) > MAX_MEMBERS:
                yield f"is a zip of more than {MAX_MEMBERS} members"
                return
            if sum(info.compress_size for info in infos) > stream.seek(0, 2):
                yield "is a zip whose members lie over each other"
                return
            # torch's own reader could see other members than those that we look at.
            if weights or any(info.filename.endswith("data.pkl") for info in infos):
                for issue in zip_layout.issues(stream, archive):
                    if issue.kind is Kind.UNSAFE:
                        yield f"is a zip that readers disagree on: {issue.message}"
            for info in infos:
                if problem := growth_problem(info.file_size, info.compress_size):
                    yield f"has a member {info.filename!r} that {problem}"
                    continue
                with archive.open(info) as member:
                    yield from _within(info.filename, _scan(member, info.filename, depth - 1, budget))
    except DAMAGE as error:
        if weights:
            yield f"is a zip that cannot be read, so nobody knows what it runs: {_reason(error)}"


def _scan_gzip(stream: IO[bytes], name: str, depth: int, budget: pickles.Budget) -> Iterator[str]:
    inner = name[:-3] if name.lower().endswith(".gz") else name
    try:
        size = stream.seek(0, 2)
        stream.seek(0)
        with gzip.GzipFile(fileobj=stream, mode="rb") as unpacked:
            # Unpacked once to its end before anything in it is sought: that it is no bomb must be known first.
            total = 0
            while chunk := unpacked.read(MAX_READ):
                total += len(chunk)
                if problem := growth_problem(total, size):
                    yield problem
                    return
            unpacked.seek(0)
            yield from _scan(cast("IO[bytes]", unpacked), inner, depth - 1, budget)
    except DAMAGE as error:
        if PurePosixPath(inner).suffix.lower() in PICKLE_SUFFIXES:
            yield f"is a gzip that cannot be read, so nobody knows what it runs: {_reason(error)}"


def _scan_tar(stream: IO[bytes], depth: int, budget: pickles.Budget) -> Iterator[str]:
    """A checkpoint of torch before 0.2, which is a tar with pickles in it; or any other tar."""
    try:
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for count, info in enumerate(archive):
                if count >= MAX_MEMBERS:
                    yield f"is a tar of more than {MAX_MEMBERS} members"
                    return
                member = archive.extractfile(info) if info.isreg() else None
                if member is not None:
                    # The pickles in such a checkpoint have names without a suffix.
                    inner = info.name if "." in info.name else f"{info.name}.pkl"
                    yield from _within(info.name, _scan(member, inner, depth - 1, budget))
    except DAMAGE as error:
        yield f"is a tar that cannot be read, so nobody knows what it runs: {_reason(error)}"


def _scan_numpy(stream: IO[bytes], head: bytes, budget: pickles.Budget) -> Iterator[str]:
    """An array of numpy, whose elements follow its header; objects among them are pickled."""
    width = 2 if head[6:7] == b"\x01" else 4
    start = 8 + width
    length = int.from_bytes(head[8:start], "little")
    stream.seek(start)
    described = re.search(rb"'descr': *([^)]*?), *'fortran_order'", stream.read(min(length, MAX_READ)))
    if described is None or re.search(rb"O", described[1]):
        stream.seek(start + length)
        yield from _scan_pickle(stream, budget)


def _scan_pickle(stream: IO[bytes], budget: pickles.Budget) -> Iterator[str]:
    start = stream.tell()
    found = pickles.imports(stream, budget)
    names = {name for name in found.names if not pickles.is_data(name)}
    stream.seek(start)
    marked = stream.read(1) == _PROTOCOLS[0][:1]
    stream.seek(start)
    more, known = _second_reader(stream) if marked or found.names or found.complete else (set(), set())
    names |= {name for name in more if not pickles.is_data(name)}
    if names:
        shown = sorted(names, key=lambda name: (name not in known, name))
        listed = ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")
        attack = f"; {min(known)} is known from attacks" if known else ""
        yield f"would run code when it is loaded: it imports {listed}{attack}"
    if found.unknown:
        yield "would run code when it is loaded: it imports what it does not name"
    if found.too_long:
        yield "is a pickle that is too long to be looked through"


def _second_reader(stream: IO[bytes]) -> tuple[set[str], set[str]]:
    """What picklescan finds a pickle to import, and what of it is known from attacks; nothing of a long one."""
    data = stream.read(_SECOND_READER + 1)
    while len(data) <= _SECOND_READER and (more := stream.read(_SECOND_READER + 1 - len(data))):
        data += more
    if len(data) > _SECOND_READER:
        return set(), set()
    from picklescan.scanner import SafetyLevel, scan_pickle_bytes

    log = logging.getLogger("picklescan")
    log.disabled = True  # it writes what it finds to its log as well
    try:
        result = scan_pickle_bytes(io.BytesIO(data), "")
    except (ValueError, LookupError, TypeError, AttributeError, UnicodeError):
        return set(), set()  # not a pickle to it; then our own reading decides
    finally:
        log.disabled = False
    # Of an import that it cannot tell, we can; where we cannot either, that is refused already.
    listed = [found for found in result.globals if "unknown" not in (found.module, found.name)]
    known = {_name(found.module, found.name) for found in listed if found.safety is SafetyLevel.Dangerous}
    return {_name(found.module, found.name) for found in listed}, known


def _name(module: str, name: str) -> str:
    return f"{pickles.PYTHON_2.get(module, module)}.{name}"


def _within(name: str, problems: Iterator[str]) -> Iterator[str]:
    for problem in problems:
        yield f"holds {name!r}, which {problem}"


def _reason(error: BaseException) -> str:
    return str(error).strip("'\"") or type(error).__name__
