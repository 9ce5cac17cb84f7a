"""What comes to the prefork process: messages that are none, and workers that come to nothing."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from array import array
from pathlib import Path
from typing import Any

import pytest

from serving.worker.process import rendezvous
from serving.worker.process.arguments import Arguments
from tests.serving.worker.frontend import (
    TIMEOUT_S,
    Peer,
    archive,
    rest,
    wait_for,
)
from tests.serving.worker.starting.thin import PID, Prefork

pytestmark = pytest.mark.skipif(not rendezvous.supported, reason="there is no prefork process on this system")


# ---- messages that are none, and workers that come to nothing --------------------------------------------------------


@pytest.mark.parametrize("data", [b"", b"\0\0\0\3abc", b"\xff\xff\xff\xff", b"nonsense"])
def test_what_is_no_message(prefork: Prefork, data: bytes) -> None:
    with prefork.connect() as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):  # it did not read all of it
            assert connection.recv(1) == b""
    assert prefork.backends() == {}


def test_a_message_that_lacks_something(prefork: Prefork) -> None:
    messages: list[dict[str, Any]] = [{}, {"query": "other"}, {"argv": []}]
    for message in messages:
        with prefork.connect() as connection:
            rendezvous.send(connection, message)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b""
    assert prefork.backends() == {}


def test_no_descriptor_of_a_message_stays_open(prefork: Prefork, tmp_path: Path) -> None:
    """Whatever is wrong with it, and however many come with it."""
    ours, theirs = socket.socketpair()
    pipe = os.pipe()
    good: dict[str, Any] = {"argv": [], "environ": {}, "cwd": "/", "path": [], "inherited": {}}
    good["arguments"] = tuple(Arguments("", "", 0, "", False, 0))
    messages = [{}, good, {**good, "arguments": ()}, {**good, "path": 7}, {"query": "backends"}, {"query": "other"}]

    def opened() -> int:
        return len(list(Path(f"/proc/{prefork.process.pid}/fd").iterdir()))

    assert wait_for(lambda: prefork.backends() == {})
    before = opened()
    try:
        for message in messages:
            for count in range(8):
                fds = [pipe[0], pipe[1], *[theirs.fileno()] * 6] if count != 5 else [pipe[0]] * 5
                with prefork.connect() as connection:
                    rendezvous.send(connection, message, tuple(fds[:count]))
                    connection.shutdown(socket.SHUT_WR)
                    while connection.recv(4096):
                        pass
        with prefork.connect() as connection:  # a part of a message
            connection.sendmsg([b"\0\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", pipe))])
        assert prefork.backends() == {}
        assert wait_for(lambda: opened() <= before)
    finally:
        for end in (ours, theirs):
            end.close()
        for fd in pipe:
            os.close(fd)


def test_who_says_nothing_holds_up_nobody(prefork: Prefork, tmp_path: Path) -> None:
    """Neither processes that are silent from the beginning nor those that stop in the middle."""
    silent = [prefork.connect() for _ in range(10)]
    for connection in silent[5:]:
        connection.sendall(b"\0\0\1\0abc")
    begin = time.monotonic()
    assert prefork.thin(archive(tmp_path / "model", PID)).load().answer()
    assert time.monotonic() - begin < TIMEOUT_S / 2  # far less; but another one may be busy, too
    for connection in silent:
        connection.close()


@pytest.mark.parametrize("data", [b"", b"nonsense", b"I\xff\xff\xff\xff", b"L\0\0"])
def test_a_first_message_that_is_not_to_load_a_model(prefork: Prefork, tmp_path: Path, data: bytes) -> None:
    thin = prefork.thin(archive(tmp_path / "model", PID))
    assert thin.answer() == rendezvous.TAKEN
    peer = thin.connect()
    peer.sock.sendall(data)
    peer.sock.shutdown(socket.SHUT_WR)
    assert peer.is_closed()
    assert thin.is_told_of_the_end()
    thin.out.rest()


def test_a_load_that_comes_in_pieces(prefork: Prefork, tmp_path: Path) -> None:
    folder = archive(tmp_path / "model", PID)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        Peer(ours).send_load(folder)
        data = theirs.recv(65536)
    thin, other = prefork.thin(folder), prefork.thin(folder)
    peer = thin.connect()
    peer.sock.sendall(data[:10])
    # Meanwhile there are others.
    assert other.load().answer()
    peer.sock.sendall(data[10:])
    assert peer.reply().code == 200
    assert peer.answer()


def test_a_request_right_behind_the_load(prefork: Prefork, tmp_path: Path) -> None:
    """What has been read beyond the first message goes to the process, too."""
    folder = archive(tmp_path / "model", PID)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        peer = Peer(ours)
        peer.send_load(folder)
        peer.send(rest("1"))
        data = theirs.recv(65536)
    peer = prefork.thin(folder).connect()
    peer.sock.sendall(data)
    assert peer.reply().code == 200
    assert peer.reply().items[0].request_id == "1"


def test_a_worker_is_killed_before_the_frontend_has_connected(prefork: Prefork, tmp_path: Path) -> None:
    thin = prefork.thin(archive(tmp_path / "model", PID))
    assert thin.answer() == rendezvous.TAKEN
    thin.die()
    thin.out.rest()
    with pytest.raises(ConnectionRefusedError):
        thin.connect()


def test_a_worker_is_killed_before_its_model_is_named(prefork: Prefork, tmp_path: Path) -> None:
    thin = prefork.thin(archive(tmp_path / "model", PID))
    peer = thin.connect()
    assert thin.answer() == rendezvous.TAKEN
    thin.die()
    assert peer.is_closed()
    thin.out.rest()
    assert prefork.backends() == {}


def test_many_workers_at_once(prefork: Prefork, tmp_path: Path) -> None:
    """Some of which are killed at any time."""
    folder = archive(tmp_path / "model", PID)
    failed = []

    def live(number: int) -> None:
        try:
            thin = prefork.thin(folder)
            if number % 4 == 1:
                return thin.die()
            peer = thin.load()
            if number % 4 == 2:
                return thin.die()
            assert peer.answer()
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=live, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert wait_for(lambda: len(prefork.children()) == 6)
