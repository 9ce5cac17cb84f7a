"""A connection of uvicorn's, with what it leaves open: names of headers as sent, bounds for a head, slow readers.

`serving.frontend.server` gives the class to ``uvicorn.Config(http=...)``.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from serving.frontend.apps.answers import JSON, error_body
from serving.frontend.apps.exchange import NAMES, new_id
from serving.frontend.errors import BadRequestError, FrontendError, RequestTimeoutError

#: Bytes of a request's line and headers together; TorchServe takes 4,096 and 8,192.
MOST_HEAD: Final = 65_536
#: Seconds that they may take.
HEAD_S: Final = 30.0
#: Seconds after which one looks whether a client takes what waits for it, and the bytes of a second that it must take.
READ_S: Final = 30.0
SLOWEST_READER: Final = 1_024


class Connection(HttpToolsProtocol):
    """A client's connection."""

    def __init__(self, *given: Any, **more: Any) -> None:
        super().__init__(*given, **more)
        # Bytes of the head that is being read, beside those of its first piece; None outside of one.
        self._head: int | None = None
        self._names: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        # Bytes that waited for the client when one looked for the last time.
        self._waiting = 0
        self._reader: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; a client that says nothing is not waited for."""
        super().connection_made(transport)
        self._hurry()

    def connection_lost(self, exc: Exception | None) -> None:
        """Clear up."""
        self._in_time()
        self._has_read()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        if self._head is not None:
            self._head += len(data)
        super().data_received(data)
        if self._head is not None and self._head > MOST_HEAD:
            self._refuse(BadRequestError(f"the request's line and headers have more than {MOST_HEAD} bytes"))
        elif self._timer is None and (self._head is not None or self._idle):
            self._hurry()

    def on_message_begin(self) -> None:
        """Begin with a request."""
        super().on_message_begin()
        self._head = 0
        self._names = []
        self.scope[NAMES] = self._names  # type: ignore[typeddict-unknown-key]

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; what stands behind a body is not one of the request that the application has."""
        if self._head is not None:
            self._names.append(name)
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Start the application."""
        self._in_time()
        self._head = None
        super().on_headers_complete()
        if self.parser.should_upgrade():
            # The parser reads nothing behind a request that asks for another protocol.
            self.cycle.keep_alive = False

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002
        """Say in TorchServe's words that this is no HTTP."""
        self._refuse(BadRequestError("Invalid HTTP message."))

    def pause_writing(self) -> None:
        """Wait until the client has taken what waits for it, but not for ever: it takes memory."""
        super().pause_writing()
        self._look_later()

    def resume_writing(self) -> None:
        """Go on: the client has taken it."""
        self._has_read()
        super().resume_writing()

    def _look_later(self) -> None:
        self._waiting = self.transport.get_write_buffer_size()
        self._reader = self.loop.call_later(READ_S, self._look)

    def _look(self) -> None:
        if self._waiting - self.transport.get_write_buffer_size() < SLOWEST_READER * READ_S:
            self.transport.abort()
        else:
            self._look_later()

    def _has_read(self) -> None:
        if self._reader is not None:
            self._reader.cancel()
            self._reader = None

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _hurry(self) -> None:
        self._timer = self.loop.call_later(HEAD_S, self._late)

    def _in_time(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if not self._idle:
            self._hurry()  # reading may have paused behind the requests before it
        elif self._head is not None:
            self._refuse(RequestTimeoutError("the request did not arrive in time"))
        else:
            self.transport.close()

    def _refuse(self, error: FrontendError) -> None:
        """Answer what cannot be read, behind the answers that are under way, and end the connection."""
        broken = not self._idle and self.cycle.more_body
        if not self._idle and not broken:
            self.cycle.keep_alive = False
            return
        # Of a request whose body is broken; one before it may have to be answered first, and is lost with it.
        if self._idle or not (self.pipeline or self.cycle.response_started):
            body = error_body(error)
            head = (
                f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\ncontent-type: {JSON}\r\n"
                f"content-length: {len(body)}\r\nx-request-id: {new_id()}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode("ascii") + body)
        self.transport.close()
