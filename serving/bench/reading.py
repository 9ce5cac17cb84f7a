"""Finding the end of one HTTP/1.1 answer after the other, in whatever portions the bytes arrive."""

from __future__ import annotations

import re
from typing import Final

#: Bytes of a head, and of a line that says how long a chunk is.
MOST_HEAD: Final = 1 << 16
_MOST_LINE: Final = 1 << 12
_KEPT: Final = 2000  # of the body of an error
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r")
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked")
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close")
_TIMING = re.compile(rb"\r\nserver-timing:([^\r]*)")
_SIZE = re.compile(rb"[0-9a-fA-F]{1,15}")
_NO_BODY: Final = (204, 304)
_END: Final = b"\r\n\r\n"


class BadAnswerError(Exception):
    """The bytes that came back are not one HTTP/1.1 answer with a length."""


class AnswerReader:
    """A reader of the answers of one connection. No pipelining: nothing may follow an answer.

    Attributes:
        status: of the answer, 0 before its head is there.
        streamed: whether the body comes in chunks.
        parts: chunks that have begun.
        closes: whether the server closes the connection after it.
        timing: value of the header Server-Timing.
        kept: the beginning of an error's body.
    """

    __slots__ = ("_held", "_last", "_left", "closes", "kept", "parts", "status", "streamed", "timing")

    def __init__(self) -> None:
        self._held = b""
        self.clear()

    def clear(self) -> None:
        """Expect the next answer."""
        self.status = self.parts = self._left = 0
        self.streamed = self.closes = self._last = False
        self.timing = self.kept = b""

    def feed(self, data: bytes) -> bool:
        """Take in bytes; tell whether the answer is complete now. `clear` comes before the next one.

        Raises:
            BadAnswerError: the bytes are not an answer, or more than one.
        """
        if not self.status:
            if self._held:
                data = self._held + data
            end = data.find(_END) + 4
            if end < 4:
                if len(data) > MOST_HEAD:
                    raise BadAnswerError(f"a head of more than {MOST_HEAD} bytes")
                self._held = data
                return False
            self._held = b""
            self._read_head(data[:end])
            data = data[end:]
        if self.status >= 400 and len(self.kept) < _KEPT:
            self.kept += data[: _KEPT - len(self.kept)]
        if self.streamed:
            return self._read_chunks(data)
        self._left -= len(data)
        if self._left < 0:
            raise BadAnswerError(f"{-self._left} bytes after the end of an answer")
        return not self._left

    def _read_head(self, head: bytes) -> None:
        status = head[9:12]
        if not head.startswith(b"HTTP/1.1 ") or not status.isdigit() or status < b"200":
            raise BadAnswerError(f"not an HTTP/1.1 answer: {head[:40]!r}")
        head = head.lower()
        self.status = int(status)
        if _CHUNKED.search(head):
            self.streamed = True
        elif found := _LENGTH.search(head):
            self._left = int(found[1])
        elif self.status not in _NO_BODY:
            self.status = 0
            raise BadAnswerError("an answer without a length")
        self.closes = _CLOSE.search(head) is not None
        if timing := _TIMING.search(head):
            self.timing = timing[1]

    def _read_chunks(self, data: bytes) -> bool:
        """Go over chunks; trailers are not expected."""
        if self._held:
            data, self._held = self._held + data, b""
        position = 0
        while True:
            taken = min(self._left, len(data) - position)
            position += taken
            self._left -= taken
            if self._left:
                return False
            if self._last:
                if position < len(data):
                    raise BadAnswerError(f"{len(data) - position} bytes after the end of an answer")
                return True
            line = data.find(b"\r\n", position)
            if line < 0 and len(data) - position < _MOST_LINE:
                self._held = data[position:]
                return False
            size = data[position:line].partition(b";")[0].strip()
            if line < 0 or not _SIZE.fullmatch(size):
                raise BadAnswerError(f"not the size of a chunk: {size[:40]!r}")
            position = line + 2
            self._left = int(size, 16) + 2
            self._last = self._left == 2
            self.parts += not self._last
