"""A shared process in this one, whose handler is held at every hook: for tests of two batches at once."""

from __future__ import annotations

import os
import socket
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from handlers import BadInputError, BaseHandler
from serving.protocol import Load
from serving.worker.loading import loader
from serving.worker.loading.loader import Model
from serving.worker.loading.settings import Backend
from serving.worker.modes import shared
from serving.worker.modes.connection import Connection
from serving.worker.process import guardian as guardians
from serving.worker.process import rendezvous
from tests.serving.worker.frontend import TIMEOUT_S, Peer, bodies, rest, wait_for

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the package leaves a file open and uses what Python deprecates
    from ts.context import Context

PREPARER = "torchmar-preparer"


class Metrics:
    """A recorder of what is added, with the requests that it was added for."""

    def __init__(self) -> None:
        self.request_ids: Any = None
        self.added: list[tuple[str, list[str]]] = []

    def add_time(self, name: str, *_: Any) -> None:
        self.added.append((name, list(self.request_ids.values())))


class Handler(BaseHandler):
    """A handler that answers each request with its body and its header `name`; the diary has what a batch is up to."""

    pipelined: bool | None = True

    def __init__(self) -> None:
        super().__init__()
        self.diary: list[str] = []
        self.sizes: list[int] = []
        self.released: dict[str, threading.Event] = {}

    def note(self, what: str, texts: list[str]) -> None:
        """Tell the test, and wait where it asked for it."""
        entry = f"{what} {' '.join(texts)}"
        self.diary.append(entry)
        if released := self.released.get(entry):
            assert released.wait(TIMEOUT_S)

    def stop_at(self, entry: str) -> threading.Event:
        """Let a hook wait for the event when it comes to this entry."""
        return self.released.setdefault(entry, threading.Event())

    def reached(self, entry: str) -> bool:
        return wait_for(lambda: entry in self.diary)

    def preprocess(self, data: Any) -> Any:
        texts = [bytes(row["body"]).decode() for row in data]
        self.note("preprocess", texts)
        if "bad" in texts:
            raise BadInputError("no good")
        if "exit" in texts:
            raise SystemExit(3)
        return [(text, self.header(index)) for index, text in enumerate(texts)]

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        self.sizes.append(len(data))
        self.note("inference", [text for text, _ in data])
        return data

    def postprocess(self, data: Any) -> Any:
        self.note("postprocess", [text for text, _ in data])
        assert [name for _, name in data] == [self.header(index) for index in range(len(data))]
        return [f"{text}:{name}" for text, name in data]

    def describe_handle(self) -> Any:
        return {"about": "echo"}

    def header(self, index: int) -> str | None:
        assert self.context is not None
        return self.context.get_request_header(index, "name")


class Client(Peer):
    """A worker of the frontend, and the process that lives as long as it."""

    def __init__(self, channel: socket.socket | None) -> None:
        ours, theirs = socket.socketpair()
        self.lifeline, far = socket.socketpair()
        super().__init__(ours)
        self.given = (theirs, far)
        if channel is not None:
            pipes = [os.open(os.devnull, os.O_WRONLY) for _ in range(2)]
            rendezvous.send(channel, {}, (theirs.fileno(), *pipes, far.fileno()))
            for fd in pipes:
                os.close(fd)
            self.forget()

    def forget(self) -> None:
        for sock in self.given:
            sock.close()

    def loaded(self) -> Client:
        assert self.reply().code == 200
        return self

    def say(self, text: str, **headers: str) -> None:
        self.send(rest(text, text.encode(), **headers))

    def heard(self) -> str:
        (body,) = bodies(self.reply())
        return body.decode()

    def is_released(self) -> bool:
        """Return whether the process that serves has closed the lifeline."""
        self.lifeline.settimeout(TIMEOUT_S)
        return self.lifeline.recv(1) == b""

    def end(self) -> None:
        self.close()
        self.lifeline.close()


class Fixture:
    """A shared process, in a thread."""

    def __init__(self, handler: Any, patch: pytest.MonkeyPatch, config: dict[str, Any] | None, **backend: Any) -> None:
        self.metrics = Metrics()
        self.context = Context("model", "", {}, 8, None, "0.12.0", True, self.metrics, config or {})
        handler.model_yaml_config = config or {}
        handler.context = self.context
        model = Model("model", handler.handle, self.context, handler, Backend(shared=True, **backend))
        patch.setattr(loader, "load", lambda *_: model)
        self.strays: list[str] = []
        for name in ("poll", "waiting", "is_complete", "take"):
            patch.setattr(shared.Server, name, self._watched(name))
        patch.setattr(guardians.Guardian, "start", lambda _: None)  # it would end the process of the tests
        patch.setattr(shared, "gc", SimpleNamespace(collect=lambda: None, freeze=lambda: None))
        output = SimpleNamespace(add=lambda *_: None, remove=os.close)
        self.channel, self._theirs = socket.socketpair()
        load, arguments = Load("model", "", None), SimpleNamespace(metrics_config="")
        self.server = shared.Server(load, arguments, self._theirs, output)  # type: ignore[arg-type]
        self.code: Any = None
        self.clients: list[Client] = []
        first = Client(None)
        connection, lifeline = first.given
        pipes = [os.open(os.devnull, os.O_WRONLY) for _ in range(2)]
        os.close(pipes[1])
        self.server.add(Connection(connection), lifeline, *pipes)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        self.clients.append(first.loaded())

    def _watched(self, name: str) -> Any:
        """Return a method of the intake that notes callers out of turn."""
        method = getattr(shared.Server, name)

        def watched(server: shared.Server, *args: Any) -> Any:
            ahead = server._pipeline is not None and server._pipeline.ahead
            second = threading.current_thread().name == PREPARER
            if ahead is not second:
                self.strays.append(f"{name} in {threading.current_thread().name}")
            if second and torch.get_num_threads() != 1:
                self.strays.append("the second thread has threads of its own")
            return method(server, *args)

        return watched

    def _run(self) -> None:
        try:
            self.code = self.server.run()
        except SystemExit as error:
            self.code = error

    def client(self) -> Client:
        client = Client(self.channel)
        self.clients.append(client)
        return client

    def join(self, count: int) -> list[Client]:
        """Connect as many workers, with the first."""
        while len(self.clients) < count:
            self.client().loaded()
        return self.clients

    def end(self) -> None:
        for client in self.clients:
            client.end()
        self.channel.close()
        self.thread.join(TIMEOUT_S)
        assert not self.thread.is_alive()
        server, guardian = self.server, self.server._guardian
        for guest in server._guests.values():
            server._close(guest)
        for thing in (self._theirs, server._epoll, guardian._wake, guardian._waker):
            thing.close()
        assert self.strays == []


@contextmanager
def serving(handler: Any, config: dict[str, Any] | None = None, **backend: Any) -> Iterator[Fixture]:
    """Yield a shared process whose handler is this one."""
    with pytest.MonkeyPatch.context() as patch:
        fixture = Fixture(handler, patch, config, **backend)
        try:
            yield fixture
        finally:
            for released in getattr(handler, "released", {}).values():
                released.set()
            fixture.end()


def names_of_threads() -> set[str]:
    return {thread.name for thread in threading.enumerate()}
