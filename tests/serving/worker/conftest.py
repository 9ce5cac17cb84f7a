"""Servers whose prefork process is started once, for importing torch takes seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.worker.process import rendezvous

from .frontend import WITHOUT_TORCH, Server, archive


@pytest.fixture(scope="session")
def _java(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not rendezvous.supported:
        pytest.skip("there is no prefork process on this system")
    server = Server()
    server.settle(tmp_path_factory.mktemp("settling"))
    yield server
    server.end()


@pytest.fixture
def server(_java: Server) -> Iterator[Server]:
    """Yield a server whose workers come from a prefork process."""
    yield _java
    _java.end_workers()


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give torch two threads, a number that nothing has set, in a process that has compiled nothing."""
    import torch  # takes seconds, and most tests need none

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if "torch._dynamo.utils" in sys.modules:  # what another test has compiled in this process
        sys.modules["torch._dynamo.utils"].counters.clear()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def _launcher() -> Iterator[Server]:
    server = Server(b"launcher")
    yield server
    server.end()


@pytest.fixture
def plain_server(_launcher: Server) -> Iterator[Server]:
    """Yield a server with something between it and its workers, which therefore do all themselves."""
    yield _launcher
    _launcher.end_workers()


@pytest.fixture
def without_torch(tmp_path: Path) -> Path:
    """Return a folder to be put on a path, which hides torch: importing it takes seconds."""
    return archive(tmp_path / "without torch", files=WITHOUT_TORCH)


@pytest.fixture
def server_of_its_own(without_torch: Path) -> Iterator[Callable[[], Server]]:
    """Start a server, without torch, for one test, which may do to it what it wants."""
    servers = []

    def start() -> Server:
        servers.append(Server(path=(without_torch,)))
        return servers[-1]

    yield start
    for server in servers:
        server.end()
