"""A tiny application at a real port, in a thread with an event loop of its own."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from serving.client.transport import Address
from serving.frontend.entrance import App
from serving.frontend.guard import Patience
from serving.frontend.listening import Place, bind
from serving.frontend.server import Listener
from serving.frontend.settings import Place as Folders
from serving.frontend.settings import Settings, of

TIMEOUT_S = 60.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def settings(folder: Path, **properties: str) -> Settings:
    """Make settings with free ports."""
    addresses = {f"{api}_address": f"http://127.0.0.1:{free_port()}" for api in ("inference", "management", "metrics")}
    return of(addresses | properties, Folders(folder, folder, folder, folder, folder), {})


@dataclass
class Reached:
    """Where an application is reached.

    Attributes:
        port: of it.
        listener: that accepts for it.
        do: runs something in the loop, and returns what it returns.
    """

    port: int
    listener: Listener
    do: Callable[..., object]

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), TIMEOUT_S)

    def ask(self, data: bytes) -> bytes:
        """Send bytes, and read what comes until the server closes the connection."""
        with self.connect() as sock:
            sock.sendall(data)
            return everything(sock)


def everything(sock: socket.socket) -> bytes:
    """Read what comes until the connection ends."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while data := sock.recv(65536):
            received += data
    return received


def until(sock: socket.socket, end: bytes) -> bytes:
    """Read what comes until this has come."""
    received = b""
    while end not in received:
        data = sock.recv(65536)
        assert data, received
        received += data
    return received


@contextlib.contextmanager
def reached(
    app: App,
    patience: Patience | None = None,
    parser: str | None = None,
    loop_of: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
) -> Iterator[Reached]:
    """Serve an application, so that it can be asked."""
    address = Address(f"http://127.0.0.1:{free_port()}")
    loop = loop_of()
    listener = Listener(Place(address, "inference_address", bind(address, "x")), app, patience or Patience(), parser)
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def do(coroutine: object) -> object:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(TIMEOUT_S)  # type: ignore[arg-type]

    do(listener.open())
    try:
        yield Reached(address.port or 0, listener, do)
    finally:
        with mock.patch("serving.frontend.server._LAST_S", 0.0):  # nobody is about to connect
            do(listener.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
        listener.place.close()


def wait_for(happened: Callable[[], object], seconds: float = TIMEOUT_S) -> bool:
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True
