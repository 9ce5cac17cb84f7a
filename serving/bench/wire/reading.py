"""Finding the end of one HTTP/1.1 answer after the other, in whatever portions the bytes arrive."""

from __future__ import annotations

import re
from typing import Final

#: Bytes of a head, and of a line that says how long a chunk is.
MOST_HEAD: Final = 1 << 16
_MOST_LINE: Final = 1 << 12
_KEPT: Final = 2000  # of the body of an error
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r")
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:[ \t]*chunked[ \t]*\r")
_CLOSE = re.compile(rb"\r\nconnection:[ \t]*close")
_TIMING = re.compile(rb"\r\nserver-timing:([^\r]*)")
_SIZE = re.compile(rb"[0-9a-fA-F]{1,15}")
_INTERIM = re.compile(rb"HTTP/1\.1 1(?!01)\d\d\b")
_NO_BODY: Final = (204, 304)
_LINE_END: Final = b"\r\n"
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

    __slots__ = ("_held", "_last", "_left", "_within", "closes", "kept", "parts", "status", "streamed", "timing")

    def __init__(self) -> None:
        self._held = b""
        self.clear()

    def clear(self) -> None:
        """Expect the next answer."""
        self.status = self.parts = self._left = 0
        self.streamed = self.closes = self._last = self._within = False
        self.timing = self.kept = b""

    def feed(self, data: bytes) -> bool:
        """Take in bytes; tell whether the answer is complete now. `clear` comes before the next one.

        Raises:
            BadAnswerError: the bytes are not an answer, or more than one.
        """
        if not self.status:
            rest = self._read_heads(data)
            if rest is None:
                return False
            data = rest
        if self.status >= 300 and len(self.kept) < _KEPT:
            self.kept += data[: _KEPT - len(self.kept)]
        if self.streamed:
            return self._read_chunks(data)
        self._left -= len(data)
        if self._left < 0:
            raise BadAnswerError(f"{-self._left} bytes after the end of an answer")
        return not self._left

    def _read_heads(self, data: bytes) -> bytes | None:
        """Read the head, and those of informational answers (1xx) before it; return what follows, None before that."""
        seen, begin = len(self._held), 0
        data, self._held = self._held + data, b""
        while not self.status:
            end = data.find(_END, max(begin, seen - 3)) + 4
            if end < 4:
                if len(data) - begin > MOST_HEAD:
                    raise BadAnswerError(f"a head of more than {MOST_HEAD} bytes")
                self._held = data[begin:]
                return None
            self._read_head(data[begin:end])
            begin = end
        return data[begin:]  # cut once, however many there were

    def _read_head(self, head: bytes) -> None:
        status = head[9:12]
        if _INTERIM.match(head):
            return
        if not head.startswith(b"HTTP/1.1 ") or not status.isdigit() or status < b"200":
            raise BadAnswerError(f"not an HTTP/1.1 answer: {head[:40]!r}")
        head = head.lower()
        self.status = int(status)
        if self.status in _NO_BODY:
            pass
        elif _CHUNKED.search(head):
            self.streamed = True
        elif found := _LENGTH.search(head):
            self._left = int(found[1])
        else:
            self.status = 0
            raise BadAnswerError("an answer without a length")
        self.closes = _CLOSE.search(head) is not None
        if timing := _TIMING.search(head):
            self.timing = timing[1]

    def _read_chunks(self, data: bytes) -> bool:
        """Go over chunks, and the trailers after them."""
        if self._held:
            data, self._held = self._held + data, b""
        position = 0
        while True:
            taken = min(self._left, len(data) - position)
            position += taken
            self._left -= taken
            if self._left:
                return False
            # The end of a chunk comes before the line that follows it.
            begin = position + 2 if self._within else position
            if not _LINE_END.startswith(data[position:begin]):
                raise BadAnswerError("a chunk that is longer than it says")
            end = data.find(_LINE_END, begin)
            if end < 0:
                if len(data) - position >= _MOST_LINE:
                    raise BadAnswerError(f"a line of more than {_MOST_LINE} bytes beside the chunks")
                self._held = data[position:]
                return False
            line, position = data[begin:end], end + 2
            if self._last and line:
                continue  # a trailer
            if self._last:
                if position < len(data):
                    raise BadAnswerError(f"{len(data) - position} bytes after the end of an answer")
                return True
            size = line.partition(b";")[0].strip()
            if not _SIZE.fullmatch(size):
                raise BadAnswerError(f"not the size of a chunk: {size[:40]!r}")
            self._left = int(size, 16)
            self._within = self._left > 0
            self._last = not self._within
            self.parts += self._within
