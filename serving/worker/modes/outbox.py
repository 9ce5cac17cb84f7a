"""The way of frames to the frontend: in order, and without a thread that waits until they are taken."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections import deque

_NO_WAIT = getattr(socket, "MSG_DONTWAIT", 0)  # where there is none a send waits, which is slower and no more


class Outbox:
    """Frames that are sent in their order, without waiting for the frontend to take them."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._changed = threading.Condition()
        self._frames: deque[memoryview] = deque()
        self._unsent = 0
        self._writer: threading.Thread | None = None

    def put(self, frame: bytes) -> None:
        """Send a frame, or what the socket takes of it now; a thread sends the rest."""
        with self._changed:
            rest = memoryview(frame)
            if not self._frames:
                rest = rest[self._send_now(rest) :]
            if not rest:
                return
            self._frames.append(rest)
            self._unsent += len(rest)
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name="torchmar-writer", daemon=True)
                self._writer.start()
            self._changed.notify_all()

    def wait(self, most: int, timeout: float | None = None) -> None:
        """Wait until not more than ``most`` bytes are unsent."""
        with self._changed:
            self._changed.wait_for(lambda: self._unsent <= most, timeout)

    def _send_now(self, data: memoryview) -> int:
        try:
            return self._sock.send(data, _NO_WAIT)
        except BlockingIOError:
            return 0
        except OSError:  # the frontend has closed the connection, which the reader sees, too
            return len(data)

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._frames)
                frame = self._frames[0]
            with contextlib.suppress(OSError):
                self._sock.sendall(frame)
            with self._changed:
                self._frames.popleft()  # only now: what is put meanwhile must come after it
                self._unsent -= len(frame)
                self._changed.notify_all()
