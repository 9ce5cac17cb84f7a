"""The frontend's connection to a worker."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from serving.protocol import (
    Decoder,
    Inference,
    Load,
    PredictionItem,
    ProtocolError,
    Reply,
    ReplyDecoder,
    encode_load_reply,
    encode_reply,
)
from serving.worker.answering.replies import STREAM_NEXT
from serving.worker.process import leftovers

# A frame that a handler streams is checked before it is sent on: it may be larger than what the frontend takes.
_MAX_STREAMED = 2**31 - 1


class Connection:
    """Messages over a socket.

    Args:
        sock: connected, blocking.
        decoder: with the bytes that have come already.
    """

    def __init__(self, sock: socket.socket, decoder: Decoder | None = None) -> None:
        self.sock = sock
        self._decoder = decoder or Decoder()

    def receive(self) -> Load | Inference | None:
        """Wait for the next message; None when the frontend has closed the connection.

        Raises:
            ProtocolError: the frontend sent something that is not a message.
        """
        decoder, sock = self._decoder, self.sock
        while (message := decoder.next_message()) is None:
            try:
                count = sock.recv_into(decoder.get_buffer())
            except OSError:
                return None
            if count == 0:
                return None
            decoder.advance(count)
        return message

    def receive_now(self) -> Load | Inference | None:
        """Return the next message if it is there completely.

        Raises:
            EOFError: the frontend has closed the connection.
            ProtocolError: the frontend sent something that is not a message.
        """
        decoder, sock = self._decoder, self.sock
        while (message := decoder.next_message()) is None:
            try:
                count = sock.recv_into(decoder.get_buffer(), 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return None
            except OSError:
                count = 0
            if count == 0:
                raise EOFError
            decoder.advance(count)
        return message

    def send(self, reply: Reply) -> bool:
        """Send a reply; False if the frontend has closed the connection."""
        return self._send(encode_reply(reply))

    def send_load_reply(self, code: int, message: str) -> bool:
        """Answer LOAD; False if the frontend has closed the connection."""
        return self._send(encode_load_reply(code, message))

    def _send(self, frame: bytes) -> bool:
        try:
            self.sock.sendall(frame)
        except OSError:
            return False
        return True

    def close(self) -> None:
        """End the connection for every holder; the frontend starts another worker if it still wants one."""
        leftovers.hang_up(self.sock)
        self.sock.close()


def items_of(frame: bytes | bytearray) -> Sequence[PredictionItem]:
    """Return the items of a frame that a handler made with TorchServe's functions, to stream a part of its answers.

    Raises:
        ValueError: it is not such a frame.
    """
    decoder = ReplyDecoder(max_response_size=_MAX_STREAMED)
    decoder.feed(frame)
    try:
        reply = decoder.next_message()
    except ProtocolError as error:
        raise ValueError(f"a part of the answer cannot be sent: {error}") from error
    if reply is None:
        raise ValueError("a part of the answer cannot be sent: its frame is cut short")
    if any(item.headers.get(STREAM_NEXT) != "true" for item in reply.items):
        # TorchServe makes such a frame of what it cannot encode; the frontend would take it for the end of the answer.
        raise ValueError("a part of the answer cannot be sent: what the handler gave for it is not serializable")
    return reply.items
