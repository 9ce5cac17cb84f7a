"""The process behind each worker."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.worker.process import rendezvous
from serving.worker.scripts import registry
from tests.serving.worker.frontend import Server, archive, idle, wait_for

PID = "import os\ndef handle(data, context): return [os.getpid()] * len(data or [])"


def test_workers_and_their_processes(server: Server, tmp_path: Path) -> None:
    shared = archive(tmp_path / "shared", PID, config={"backend": {"mode": "shared"}})
    dedicated = archive(tmp_path / "dedicated", PID)
    one, two, three = server.worker(shared), server.worker(shared), server.worker(dedicated)
    unconnected = server.start(dedicated)
    unconnected.out.wait("started.\n")
    assert registry.backends(server.pid) == {}
    for worker in (one, two, three):
        assert worker.load(worker.folder).code == 200
    pid, other = int(one.answer()), int(three.answer())
    assert registry.backends(server.pid) == {one.pid: (pid, 2), two.pid: (pid, 2), three.pid: (other, 1)}
    two.kill()
    three.kill()
    assert wait_for(lambda: registry.backends(server.pid) == {one.pid: (pid, 1)})


@pytest.fixture
def owner() -> Iterator[int]:
    process = idle()
    yield process.pid
    process.kill()
    process.communicate()


def test_a_server_without_a_prefork_process(owner: int) -> None:
    assert registry.backends(owner) == {}


@pytest.mark.skipif(not rendezvous.supported, reason="there is no prefork process on this system")
def test_no_answer(owner: int) -> None:
    listener = rendezvous.listen(rendezvous.address(owner))
    assert listener is not None

    def close_one() -> None:
        connection, _ = listener.accept()
        rendezvous.receive(connection)
        connection.close()

    with listener:
        closing = threading.Thread(target=close_one)
        closing.start()
        assert registry.backends(owner) == {}
        closing.join()


def test_another_system(monkeypatch: pytest.MonkeyPatch, owner: int) -> None:
    monkeypatch.setattr(rendezvous, "supported", False)
    assert registry.backends(owner) == {}


@pytest.mark.skipif(not rendezvous.supported, reason="there is no prefork process on this system")
def test_who_asks_waits_no_longer_than_it_wants(owner: int) -> None:
    listener = rendezvous.listen(rendezvous.address(owner))
    assert listener is not None
    with listener, pytest.raises(TimeoutError):
        registry.backends(owner, 0.05)
