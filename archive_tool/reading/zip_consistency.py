"""Whether a zip means the same to every reader.

A zip is described twice: each member by a header before its bytes, and all of them in a directory at the end.
TorchServe's Java frontend reads the headers from the first byte on and stops where none follows (ZipInputStream).
Python, and so everything that checks an archive, reads the directory. Where the two differ, what was checked is not
what is served. So each byte of the file must belong to one header, member, descriptor or the directory, and both
descriptions must agree. The layout is that of PKWARE's APPNOTE.TXT 6.3.10, sections 4.3 and 4.5.3.
"""

from __future__ import annotations

import struct
import zipfile
import zlib
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple

from archive_tool.files import go_to
from archive_tool.issues import Issue, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

_LOCAL: Final = struct.Struct("<4s2x2H4x3I2H")  # signature, flags, method, (time,) crc, packed, size, name, extra
_CENTRAL: Final = struct.Struct("<4s24x3H12x")
_ZIP64_RECORD: Final = struct.Struct("<4sQ")
_END: Final = struct.Struct("<4s16xH")
_ZIP64_LOCATOR_SIZE: Final = 20
_END_SIZE: Final = 22
_ENCRYPTED: Final = 0x1
#: Flag: the sizes follow the bytes.
DESCRIPTOR: Final = 0x8
_UTF8: Final = 0x800
_TOLD_LATER: Final = 0xFFFFFFFF
_CHUNK: Final = 1 << 18
#: An extra field with the name in UTF-8, which some readers prefer: Info-ZIP, and Python from 3.13 on.
_UNICODE_PATH: Final = 0x7075


#: Entries and bytes of a directory that are read at all; both are known before any entry is read.
MAX_ENTRIES: Final = 100_000
MAX_DIRECTORY: Final = 64 << 20


class TooManyEntriesError(zipfile.BadZipFile):
    """A zip whose directory lists more than anyone wants to read."""


class _Opening:
    """The file of a zip while zipfile reads the whole directory."""

    def __init__(self, stream: IO[bytes], most: int) -> None:
        self._stream = stream
        self._most = most

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def read(self, size: int = -1) -> bytes:
        if size > MAX_DIRECTORY:
            raise TooManyEntriesError(f"has a directory of more than {MAX_DIRECTORY} bytes")
        data = self._stream.read(size)
        position = count = 0
        while data.startswith(b"PK\x01\x02", position) and len(data) - position >= _CENTRAL.size:
            position += _CENTRAL.size + sum(_CENTRAL.unpack_from(data, position)[1:])
            count += 1
            if count > self._most:
                raise TooManyEntriesError(f"has more than {self._most} members")
        return data


def open_zip(stream: IO[bytes], most: int = MAX_ENTRIES) -> zipfile.ZipFile:
    """Open a zip; zipfile reads the whole directory into memory. The caller closes the stream.

    Raises:
        TooManyEntriesError: it has more than `most` members.
        zipfile.BadZipFile: it is not a zip; see `streams.DAMAGE` for other errors of a damaged one.
    """
    archive = zipfile.ZipFile(_Opening(stream, most))
    size = stream.seek(0, 2)
    if behind := next((info for info in archive.infolist() if info.header_offset > size), None):
        raise zipfile.BadZipFile(f"the member {behind.orig_filename!r} begins behind the end of the file")
    archive.fp = stream
    return archive


class _Local(NamedTuple):
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    name: bytes
    data: int
    extra: bytes


def issues(stream: IO[bytes], archive: zipfile.ZipFile) -> Iterator[Issue]:
    """Compare the members' headers with the directory, and account for every byte.

    Args:
        stream: the file, seekable; its position changes.
        archive: the same file, as Python reads it.
    """
    expected = 0
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        name = info.orig_filename
        if info.header_offset > expected:
            yield _gap(info.header_offset - expected, name, first=expected == 0)
        elif info.header_offset < expected:
            message = f"{name!r} lies over the bytes of another member"
            yield Issue(Kind.UNSAFE, message, name)
        local = _read_local(stream, info.header_offset)
        if local is None:
            yield Issue(Kind.UNSAFE, f"{name!r} has no header of its own where the directory says", name)
            continue
        yield from _compare(info, local)
        expected = max(expected, local.data + info.compress_size)
        if local.flags & DESCRIPTOR:
            length = _descriptor(stream, expected, info)
            if not length:
                yield Issue(Kind.UNSAFE, f"{name!r} is followed by sizes that are not those of the directory", name)
            expected += length
    if archive.start_dir != expected:
        yield Issue(Kind.UNSAFE, f"{abs(archive.start_dir - expected)} bytes before the directory belong to no member")
    yield from _check_end(stream, archive)


def _gap(count: int, name: str, *, first: bool) -> Issue:
    belong = "1 byte belongs" if count == 1 else f"{count} bytes belong"
    what = "finds no member" if first else "stops reading there"
    return Issue(Kind.UNSAFE, f"before {name!r} {belong} to no member: TorchServe {what}", name)


def _read_local(stream: IO[bytes], offset: int) -> _Local | None:
    go_to(stream, offset)
    header = stream.read(_LOCAL.size)
    if len(header) < _LOCAL.size:
        return None
    signature, flags, method, crc, packed, size, name_length, extra_length = _LOCAL.unpack(header)
    if signature != b"PK\x03\x04":
        return None
    name = stream.read(name_length)
    extra = stream.read(extra_length)
    if _TOLD_LATER in (packed, size):
        size, packed = _zip64_sizes(extra, size, packed)
    data = offset + _LOCAL.size + name_length + extra_length
    return _Local(flags, method, crc, packed, size, name, data, extra)


def _zip64_sizes(extra: bytes, size: int, packed: int) -> tuple[int, int]:
    """Take from the extra field the sizes that do not fit into the header; they stand there in this order."""
    for tag, values in _fields(extra):
        if tag == 1:
            numbers = iter(struct.unpack(f"<{len(values) // 8}Q", values[: len(values) // 8 * 8]))
            size = next(numbers, size) if size == _TOLD_LATER else size
            packed = next(numbers, packed) if packed == _TOLD_LATER else packed
            break
    return size, packed


def _fields(extra: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield the parts of an extra field, each with its tag."""
    position = 0
    while position + 4 <= len(extra):
        tag, length = struct.unpack_from("<2H", extra, position)
        yield tag, extra[position + 4 : position + 4 + length]
        position += 4 + length


def name_issue(info: zipfile.ZipInfo, extra: bytes = b"") -> Issue | None:
    """Report if readers of the directory see a name other than `orig_filename`, with any version of Python.

    Args:
        info: of the member.
        extra: the extra field of the member's own header, if it is to be checked, too.
    """
    name = info.orig_filename
    encoded = _encoded(info)
    for tag, value in (*_fields(info.extra), *_fields(extra)):
        # One byte is its version, four are a checksum of the other name.
        if tag == _UNICODE_PATH and value[5:] != encoded:
            return Issue(Kind.UNSAFE, f"{name!r} is called {_shown(value[5:])} by an extra field", name)
    return None


def _encoded(info: zipfile.ZipInfo) -> bytes:
    return info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8 else "cp437")


def _compare(info: zipfile.ZipInfo, local: _Local) -> Iterator[Issue]:
    name = info.orig_filename
    if issue := name_issue(info, local.extra):
        yield issue
    if local.name != _encoded(info):
        message = f"{name!r} is called {_shown(local.name)} by its own header, which TorchServe reads"
        yield Issue(Kind.UNSAFE, message, name)
    elif not local.name.isascii() and not (local.flags & info.flag_bits & _UTF8):
        message = f"{name!r} does not say how its name is encoded: TorchServe reads it as UTF-8, others do not"
        yield Issue(Kind.UNSAFE, message, name)
    if local.method != info.compress_type or (local.flags ^ info.flag_bits) & (_ENCRYPTED | DESCRIPTOR):
        yield Issue(Kind.UNSAFE, f"{name!r} is packed in another way by its own header than by the directory", name)
    if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
        # Java continues after the bytes that the member has, Python after those that it uses.
        yield Issue(Kind.UNSAFE, f"{name!r} is stored in {info.compress_size} bytes and has {info.file_size}", name)
    stated = (local.crc, local.packed, local.size)
    if local.flags & DESCRIPTOR:
        if local.method == zipfile.ZIP_STORED and not name.endswith("/"):
            message = f"{name!r} is stored and its size follows it: TorchServe reads a zip as a stream and cannot"
            yield Issue(Kind.UNREADABLE, message, name)
        # A size that is not known before the bytes is 0 there; some tools set the sizes to all ones with ZIP64.
        wrong = local.packed not in (0, info.compress_size, _TOLD_LATER)
        wrong = wrong or local.size not in (0, info.file_size, _TOLD_LATER)
    else:
        wrong = stated != (info.CRC, info.compress_size, info.file_size)
    if wrong:
        yield Issue(Kind.UNSAFE, f"{name!r} has other sizes in its own header than in the directory", name)


def _shown(name: bytes) -> str:
    return repr(name.decode("utf-8", "backslashreplace"))


def _descriptor(stream: IO[bytes], offset: int, info: zipfile.ZipInfo) -> int:
    """Return the length of the data descriptor at an offset; 0 if none there agrees with the directory."""
    go_to(stream, offset)
    found = stream.read(24)
    for signature in (b"PK\x07\x08", b""):
        for numbers in ("<3I", "<I2Q"):
            sizes = (info.compress_size, info.file_size)
            if numbers == "<3I" and max(sizes) > _TOLD_LATER:
                continue
            wanted = signature + struct.pack(numbers, info.CRC, *sizes)
            if found.startswith(wanted):
                return len(wanted)
    return 0


def _check_end(stream: IO[bytes], archive: zipfile.ZipFile) -> Iterator[Issue]:
    """Read the directory from the file itself: it must list the same members, and end the file."""
    size = stream.seek(0, 2)
    position = archive.start_dir
    count = 0
    while (header := _read_at(stream, position, _CENTRAL.size)).startswith(b"PK\x01\x02"):
        if len(header) < _CENTRAL.size:
            break
        position += _CENTRAL.size + sum(_CENTRAL.unpack(header)[1:])
        count += 1
    if count != len(archive.infolist()):
        yield Issue(Kind.UNSAFE, f"the directory has {count} entries, and {len(archive.infolist())} of them count")
    header = _read_at(stream, position, _ZIP64_RECORD.size)
    if header.startswith(b"PK\x06\x06") and len(header) == _ZIP64_RECORD.size:
        position += _ZIP64_RECORD.size + _ZIP64_RECORD.unpack(header)[1]
        position += _ZIP64_LOCATOR_SIZE
    end = _read_at(stream, position, _END_SIZE)
    if len(end) < _END_SIZE or not end.startswith(b"PK\x05\x06"):
        yield Issue(Kind.UNSAFE, "between the directory and its end are bytes that belong to no member")
        return
    position += _END_SIZE + _END.unpack(end)[1]
    if position != size:
        yield Issue(Kind.UNSAFE, "the file does not end where the directory does")


def _read_at(stream: IO[bytes], position: int, count: int) -> bytes:
    go_to(stream, position)
    return stream.read(count)


def data_offset(stream: IO[bytes], info: zipfile.ZipInfo) -> int:
    """Return where a member's bytes begin.

    Raises:
        zipfile.BadZipFile: it has no header where the directory says.
    """
    local = _read_local(stream, info.header_offset)
    if local is None:
        raise zipfile.BadZipFile(f"{info.orig_filename!r} has no header of its own where the directory says")
    return local.data


def inflates_exactly(stream: IO[bytes], info: zipfile.ZipInfo) -> bool:
    """Return whether a deflated member's bytes end where the directory says.

    A reader that takes a member's size from the descriptor behind it continues where the bytes end by themselves. If
    the directory claims more bytes, those are further members to such a reader only.

    Raises:
        zlib.error: the bytes are damaged.
    """
    local = _read_local(stream, info.header_offset)
    if local is None:
        return False
    stream.seek(local.data)
    left = info.compress_size
    packed = zlib.decompressobj(-zlib.MAX_WBITS)
    while left and not packed.eof:
        chunk = stream.read(min(_CHUNK, left))
        if not chunk:
            return False
        left -= len(chunk)
        packed.decompress(chunk, _CHUNK)
        while packed.unconsumed_tail and not packed.eof:
            packed.decompress(packed.unconsumed_tail, _CHUNK)
    return packed.eof and not packed.unused_data and left == 0
