"""The budget for looking into all the pickles and packed files of an archive."""

from __future__ import annotations

from typing import Final

#: What the pickles of an archive may cost together, in plain instructions: 100,000 tensors, or about two seconds.
MAX_INSTRUCTIONS: Final = 8_000_000
#: Bytes that the slower second reader looks through, in all the pickles of an archive together.
MAX_SECOND: Final = 1 << 20
#: Bytes that archives in an archive are unpacked to, over all levels together; or so many times the archive's own size.
MAX_UNPACKED: Final = 256 << 20
_GROWTH: Final = 20
#: Entries of the lists of such archives, and headers of numpy, each in units of what the shortest one takes.
MAX_HEADERS: Final = 200_000


class Budget:
    """How much may still be read, in all the files of an archive that share it.

    Args:
        packed: bytes of the archive.

    Attributes:
        left: instructions of pickles.
        second: bytes that another reader may look through, too.
        unpacked: bytes that archives in the archive may be unpacked to.
        headers: units of headers.
    """

    def __init__(self, packed: int = 0) -> None:
        self.left = MAX_INSTRUCTIONS
        self.second = MAX_SECOND
        self.unpacked = max(MAX_UNPACKED, _GROWTH * packed)
        self.headers = MAX_HEADERS

    def unpack(self, count: int) -> bool:
        """Take so many bytes to unpack; return whether they were left. A refusal takes nothing."""
        enough = count <= self.unpacked
        self.unpacked -= count if enough else 0
        return enough

    def read_headers(self, units: int) -> bool:
        """Take so many units of headers; return whether they were left."""
        self.headers = max(-1, self.headers - units)
        return self.headers >= 0
