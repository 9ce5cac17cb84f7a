"""A first look at a file: what some loader could take it for, by its name, its first bytes and its end."""

from __future__ import annotations

import io
import tarfile
import zlib
from typing import IO, Final

from archive_tool.pickles import imports
from archive_tool.pickles.budget import Budget
from archive_tool.reading.streams import MAX_READ
from archive_tool.weights import numpy_header, weight_names

#: How pickles begin from protocol 2 on.
PROTOCOLS: Final = tuple(bytes((0x80, version)) for version in range(6))
#: Bytes of a file that are looked at first.
HEAD: Final = 512
_GZIP: Final = b"\x1f\x8b"
_ZIP: Final = b"PK"
#: A zip is looked for in so many bytes at a file's end, as zipfile does.
_ZIP_TAIL: Final = 22 + (1 << 16)
_ZIP_END: Final = b"PK\x05\x06"
#: What joblib, pandas and tarfile would unpack, and we do not.
_PACKINGS: Final = (
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x5d\0", "lzma"),
    (b'\x04"M\x18', "lz4"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
)


def may_be_one(name: str, head: bytes, budget: Budget, *, weights: bool = False) -> bool:
    """Return whether a file is to be looked into; from its name and its first 512 bytes.

    Args:
        name: of the file.
        head: its first bytes.
        budget: of instructions.
        weights: it is loaded as such whatever it is called.
    """
    return File(io.BytesIO(head), name, len(head), weights=weights).may_be_loaded(budget)


class File:
    """A file that is looked into, in an archive or not.

    Attributes:
        head: its first bytes.
        weights: it must be something known.
        unmarked: it may be a pickle that does not begin with the mark of one.
        torchscript: it belongs to a TorchScript file.
    """

    def __init__(
        self,
        stream: IO[bytes],
        name: str,
        size: int,
        *,
        weights: bool = False,
        unmarked: bool = False,
        torchscript: bool = False,
    ) -> None:
        self.stream = stream
        self.name = name
        self.size = size
        self.weights = weights or weight_names.are_weights(name)
        self.to_the_end = self.weights or weight_names.may_be_weights(name)
        self.unmarked = unmarked or self.to_the_end or not weight_names.is_text(name)
        self.torchscript = torchscript
        self.head = b""
        while len(self.head) < HEAD and (more := stream.read(HEAD - len(self.head))):
            self.head += more

    def may_be_loaded(self, budget: Budget) -> bool:
        """Return whether anything could be found in it, by its first bytes."""
        packed = self.begins_as_zip or self.is_gzip or self.is_tar
        if self.to_the_end or packed or self.is_marked:
            return True
        if not self.unmarked:
            return False
        found = imports.imports(io.BytesIO(self.head), budget)
        return found.complete or found.cut or found.too_long or found.unknown or bool(found.names)

    @property
    def is_marked(self) -> bool:
        """Return whether it begins with the mark of a pickle or of an array of numpy."""
        return self.head.startswith((*PROTOCOLS, numpy_header.MAGIC))

    @property
    def is_gzip(self) -> bool:
        """Return whether it begins as a gzip."""
        return self.head.startswith(_GZIP)

    @property
    def is_tar(self) -> bool:
        """Return whether tarfile reads a header there; it needs no magic."""
        try:
            tarfile.TarInfo.frombuf(self.head[: tarfile.BLOCKSIZE], "utf-8", "surrogateescape")
        except tarfile.TarError:
            return False
        return True

    @property
    def begins_as_zip(self) -> bool:
        """Return whether it begins as a zip."""
        return self.head.startswith(_ZIP)

    def ends_as_zip(self) -> bool:
        """Return whether the end of a zip is where zipfile looks for one."""
        self.stream.seek(max(0, self.size - _ZIP_TAIL))
        return _ZIP_END in read(self.stream, _ZIP_TAIL)

    def packing(self) -> str | None:
        """Return its packing, as joblib and pandas recognize it, if that is none that is unpacked here."""
        for magic, name in _PACKINGS:
            if self.head.startswith(magic):
                return name
        if self.head[:1] == b"x" and int.from_bytes(self.head[:2], "big") % 31 == 0:
            try:
                zlib.decompressobj().decompress(self.head, 1)
            except zlib.error:
                return None
            return "zlib"
        return None


def read(stream: IO[bytes], count: int) -> bytes:
    """Read so many bytes, or all that there are."""
    chunks = []
    while count > 0 and (chunk := stream.read(min(count, MAX_READ))):
        chunks.append(chunk)
        count -= len(chunk)
    return b"".join(chunks)
