"""How a response leaves: its head with its body, which uvicorn's httptools protocol writes one after the other.

With uvloop each write is a system call, and a packet for which the client may wake up. The attributes of uvicorn's that
are used here are not documented, as those in `guard`.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

_LINES: Final = tuple(
    f"HTTP/1.1 {status} {HTTPStatus(status).phrase if status in set(HTTPStatus) else ''}\r\n".encode()
    for status in range(600)
)


class InOnePiece:
    """In place of httptools' way of a response: what is whole is put together once, and written once.

    Two writes are two packets, for each of which the client may wake up; and two patterns go over every header there.
    Everything else goes uvicorn's way: streams, answers without a body, what has a fault.
    """

    # Of uvicorn's.
    scope: Any
    transport: Any
    flow: Any
    default_headers: list[tuple[bytes, bytes]]
    message_event: Any
    on_response: Any
    disconnected: bool
    keep_alive: bool
    waiting_for_100_continue: bool
    response_started: bool
    response_complete: bool

    _start: Any = None

    async def send(self, message: Any) -> None:
        """Write what the application sends; the head waits for the body."""
        start, self._start = self._start, None
        if start is None and not self.response_started and message["type"] == "http.response.start":
            self.response_started, self.waiting_for_100_continue = True, False
            self._start = message
            return
        if start is not None:
            if (data := self._whole(start, message)) is not None:
                self.transport.write(data)
                self.response_complete = True
                self.message_event.set()
                if not self.keep_alive:
                    self.transport.close()
                self.on_response()
                return
            self.response_started = False
            await super().send(start)  # type: ignore[misc]
        await super().send(message)  # type: ignore[misc]

    def _whole(self, start: Any, message: Any) -> bytes | None:
        """Return the bytes of a response; None where it has no length, or is not whole, or cannot be sent so."""
        if message.get("more_body") or self.flow.write_paused or self.disconnected or self.scope["method"] == "HEAD":
            return None
        headers = self.default_headers + start["headers"]
        parts = [_LINES[start["status"]]]
        lines, length, closes = len(headers) + 2, -1, False
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
            if name == b"content-length":
                length = int(value)
            elif name == b"connection":
                closes = value == b"close"
        body = message["body"]
        if length != len(body):
            return None
        if closes:
            self.keep_alive = False
        elif not self.keep_alive:
            parts.append(b"connection: close\r\n")
            lines += 1
        parts.append(b"\r\n")
        head = b"".join(parts)
        # A line's end within a header would begin another one.
        return head + body if head.count(b"\n") == lines else None
