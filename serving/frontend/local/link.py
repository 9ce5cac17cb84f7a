"""The connection to a worker: messages out, replies in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from serving.protocol import ProtocolError, Reply, ReplyDecoder


class Link(asyncio.BufferedProtocol):
    """A connection to one process of a worker.

    Args:
        max_response_size: bytes of each field of a reply.
        replied: takes each reply.
        lost: called once, when nothing more will come; with the reason, if it was not a plain end.
    """

    def __init__(
        self, max_response_size: int, replied: Callable[[Reply], None], lost: Callable[[Exception | None], None]
    ) -> None:
        self._decoder = ReplyDecoder(max_response_size=max_response_size)
        self._replied = replied
        self._lost = lost
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection."""
        self._transport = cast(asyncio.Transport, transport)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002
        """Give the decoder's own memory: nothing is copied."""
        return self._decoder.get_buffer()

    def buffer_updated(self, nbytes: int) -> None:
        """Take what has come."""
        self._decoder.advance(nbytes)
        try:
            while (reply := self._decoder.next_message()) is not None:
                self._replied(reply)
        except ProtocolError as error:
            self._end(error)

    def send(self, frame: bytes) -> None:
        """Send a message; after the end of the connection this does nothing."""
        if self._transport is not None:
            self._transport.write(frame)

    def close(self) -> None:
        """End the connection."""
        self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell that the worker has gone."""
        self._end(exc)
        self._decoder.close()

    def _end(self, error: Exception | None) -> None:
        if self._transport is None:
            return
        transport, self._transport = self._transport, None
        transport.abort()
        self._lost(error)
