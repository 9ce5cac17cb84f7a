"""The bytes of a zip around its members, after PKWARE's APPNOTE 6.3 (the sections are named below).

TorchServe's frontend reads a zip as a stream, from front to back: it must find a stored member's sizes before the
member (so there are no data descriptors, 4.3.9). Hence a member's header is written after its content, into a gap.
"""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from archive_tool.metadata.manifest import ZIP_EPOCH
from archive_tool.writing.copying import write_all
from archive_tool.writing.deflate import max_deflated

if TYPE_CHECKING:
    import io

STORED: Final = 0
DEFLATED: Final = 8
#: A number that does not fit into 32 bits is in a zip64 extra field, and the regular field holds this (4.5.3).
LIMIT: Final = 0xFFFFFFFF
_MANY: Final = 0xFFFF
_LATEST: Final = 4354819198  # 2107-12-31 23:59:58, the last time that a zip archive can express

#: The content of a large stored member begins at a multiple of this. Linux then keeps the copy in large pages as it has
#: the file (a quarter less time than at an odd place or a multiple of 4096), file systems that share extents can share
#: them instead of copying, and a reader may map a tensor from the archive. Not 64 KiB, which is a little faster still:
#: Java 25 takes no header whose name and extra fields have more than 65,489 bytes together.
ALIGNMENT: Final = 32 << 10
#: Bytes from which the padding is worth it.
ALIGN_FROM: Final = 1 << 20

_UNIX: Final = 3  # "made by": the external attributes hold a Unix mode (4.4.2)
_FILE: Final = 0o100644 << 16
_UTF8: Final = 0x800  # flag: the name is UTF-8 (4.4.4)
_PLAIN: Final = 20
_ZIP64: Final = 45  # version needed (4.4.3)
_ZIP64_EXTRA: Final = 1
# An extra field for padding: the alignment in two bytes, then zeros. The number is that of Android's apksig.
_PADDING_EXTRA: Final = 0xD935

_LOCAL: Final = struct.Struct("<4s5H3L2H")  # 4.3.7
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")  # 4.3.12
_END64: Final = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
_LOCATOR: Final = struct.Struct("<4sLQL")  # 4.3.15
_END: Final = struct.Struct("<4s4H2LH")  # 4.3.16


@dataclass
class ZipMember:
    """A member with its place in the file.

    Attributes:
        name: in UTF-8.
        method: `STORED` or `DEFLATED`.
        size, packed, crc: set by `ZipWriter.end`.
        offset: where its local header begins.
        start: where its content begins.
        large: whether the local header has a zip64 field.
        padding: zeros in the padding field; None if there is no such field.
    """

    name: bytes
    method: int
    offset: int
    large: bool
    start: int = 0
    padding: int | None = None
    size: int = 0
    packed: int = 0
    crc: int = 0


class ZipWriter:
    """A writer of the headers of a zip; the caller writes the contents, between `begin` and `end`.

    Args:
        file: new, open for writing.
        seconds: the time of every member, since 1970; clamped to the range of a zip.
    """

    def __init__(self, file: io.FileIO, seconds: int) -> None:
        self._file = file
        self._members: list[ZipMember] = []
        self._position = 0
        year, month, day, hour, minute, second = time.gmtime(min(max(seconds, ZIP_EPOCH), _LATEST))[:6]
        self._date = (year - 1980) << 9 | month << 5 | day  # 4.4.6
        self._time = hour << 11 | minute << 5 | second // 2

    def begin(self, name: str, method: int, size: int) -> ZipMember:
        """Place the next member and return it; its content goes to ``start``."""
        most = max_deflated(size) if method == DEFLATED else size
        member = ZipMember(name.encode(), method, self._position, large=most >= LIMIT)
        member.start = self._position + len(self._local(member))
        if method == STORED and size >= ALIGN_FROM:
            member.padding = -(member.start + 6) % ALIGNMENT
            member.start += 6 + member.padding
        return member

    def end(self, member: ZipMember, *, size: int, packed: int, crc: int) -> None:
        """Write the header of a member whose content is written."""
        member.size, member.packed, member.crc = size, packed, crc
        write_all(self._file, self._local(member), member.offset)
        self._members.append(member)
        self._position = member.start + packed

    def close(self) -> None:
        """Write the central directory and what follows it."""
        directory = b"".join(self._central(member) for member in self._members)
        count, size, offset = len(self._members), len(directory), self._position
        tail = b""
        if count >= _MANY or size >= LIMIT or offset >= LIMIT:
            tail = _END64.pack(b"PK\6\6", _END64.size - 12, _ZIP64, _ZIP64, 0, 0, count, count, size, offset)
            tail += _LOCATOR.pack(b"PK\6\7", 0, offset + size, 1)
        few = min(count, _MANY)
        tail += _END.pack(b"PK\5\6", 0, 0, few, few, min(size, LIMIT), min(offset, LIMIT), 0)
        write_all(self._file, directory + tail, offset)

    def _local(self, member: ZipMember) -> bytes:
        sizes = (member.packed, member.size)
        extra = b""
        if member.large:
            extra = struct.pack("<2H2Q", _ZIP64_EXTRA, 16, member.size, member.packed)
            sizes = (LIMIT, LIMIT)
        if member.padding is not None:
            extra += struct.pack("<3H", _PADDING_EXTRA, 2 + member.padding, ALIGNMENT) + bytes(member.padding)
        head = (_ZIP64 if member.large else _PLAIN, _flags(member.name), member.method, self._time, self._date)
        return _LOCAL.pack(b"PK\3\4", *head, member.crc, *sizes, len(member.name), len(extra)) + member.name + extra

    def _central(self, member: ZipMember) -> bytes:
        numbers = (member.size, member.packed, member.offset)
        beyond = [number for number in numbers if number >= LIMIT]
        extra = struct.pack(f"<2H{len(beyond)}Q", _ZIP64_EXTRA, 8 * len(beyond), *beyond) if beyond else b""
        size, packed, offset = (min(number, LIMIT) for number in numbers)
        version = _ZIP64 if member.large or beyond else _PLAIN
        head = (_UNIX << 8 | version, version, _flags(member.name), member.method, self._time, self._date)
        lengths = (len(member.name), len(extra), 0)
        fields = _CENTRAL.pack(b"PK\1\2", *head, member.crc, packed, size, *lengths, 0, 0, _FILE, offset)
        return fields + member.name + extra


def _flags(name: bytes) -> int:
    return 0 if name.isascii() else _UTF8
