"""The reception of thin processes and of what they hand over, without waiting for any of them."""

from __future__ import annotations

import os
import selectors
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from serving.worker.process import rendezvous
from serving.worker.process.arguments import Arguments
from serving.worker.starting import reception
from serving.worker.starting.reception import Reception, guest_of

pytestmark = pytest.mark.skipif(not rendezvous.supported, reason="there is no prefork process on this system")

ARGUMENTS = Arguments("/s.1", "", 0, "", False, 0)
MESSAGE = {
    "argv": ["x"],
    "environ": {"A": "b"},
    "cwd": "/",
    "path": ["/p"],
    "inherited": {"umask": 0},
    "arguments": tuple(ARGUMENTS),
}


class Desk:
    """A reception at a name of its own, and what it has received."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.name = f"\0torchmar-test-{os.getpid()}"
        listener = rendezvous.listen(self.name)
        assert listener is not None
        self.received: list[tuple[socket.socket, int, dict[str, Any], list[int]]] = []
        self.reception = Reception(listener, self.selector, lambda *given: self.received.append(given))
        self.reception.open()

    def connect(self) -> socket.socket:
        connection = rendezvous.connect(self.name)
        assert connection is not None
        return connection

    def turn(self) -> None:
        """Do all that is there to be done now."""
        while events := self.selector.select(0):
            for key, _ in events:
                key.data()


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.reception.close()
    desk.selector.close()
    for connection, _, _, fds in desk.received:
        connection.close()
        for fd in fds:
            os.close(fd)


def test_a_message_in_pieces_among_others(desk: Desk) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        rendezvous.send(ours, {"slow": 1})
        data = theirs.recv(4096)
    with desk.connect() as silent, desk.connect() as slow, desk.connect() as quick:
        for index in range(len(data) - 1):
            slow.sendall(data[index : index + 1])
            desk.turn()
        assert desk.reception.is_busy
        rendezvous.send(quick, {"quick": 1}, (0,))
        desk.turn()
        slow.sendall(data[-1:])
        desk.turn()
        assert [(pid, message, len(fds)) for _, pid, message, fds in desk.received] == [
            (os.getpid(), {"quick": 1}, 1),
            (os.getpid(), {"slow": 1}, 0),
        ]
        assert len(list(desk.reception.deadlines())) == 1
        silent.close()
        desk.turn()
        assert not desk.reception.is_busy


def test_who_is_silent_is_sent_away(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with desk.connect() as patient:
        desk.turn()
        monkeypatch.setattr(reception, "_LIMIT_S", 0.0)
        with desk.connect() as late:
            late.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, writing.to_bytes(4, "little"))])
            desk.turn()
            os.close(writing)
            desk.reception.check_deadlines()
            assert late.recv(1) == b""
            assert os.read(reading, 1) == b""  # the descriptor that came with it is closed
        assert desk.reception.is_busy
        assert [deadline > 0 for deadline in desk.reception.deadlines()] == [True]
        desk.reception.close()
        assert patient.recv(1) == b""
    os.close(reading)


@pytest.mark.parametrize("data", [b"\0\0\0\3abc", b"\xff\xff\xff\xff", b"\0\0\0\0", b"\0\0"])
def test_what_is_no_message(desk: Desk, data: bytes) -> None:
    with desk.connect() as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        desk.turn()
        assert connection.recv(1) == b""
    assert desk.received == []


def test_what_a_thin_process_hands_over() -> None:
    sockets = [*socket.socketpair(), *socket.socketpair()]
    fds = [sockets[0].detach(), *(os.open(os.devnull, os.O_RDWR) for _ in range(3)), sockets[2].detach()]
    listener, guest = guest_of(MESSAGE, fds)
    with sockets[1], sockets[3], listener:
        assert (listener.fileno(), guest.stdin, guest.stdout, guest.stderr, guest.lifeline.fileno()) == tuple(fds)
        assert guest.arguments == ARGUMENTS
        assert (guest.argv, guest.environ, guest.cwd, guest.path) == (["x"], {"A": "b"}, "/", ["/p"])
        assert guest.inherited == {"umask": 0}
        with pytest.raises(BlockingIOError):
            listener.recv(1)
        guest.close()
        assert sockets[3].recv(1) == b""


@pytest.mark.parametrize(
    "wrong",
    [{"argv": ()}, {"environ": None}, {"cwd": 1}, {"path": "x"}, {"inherited": []}, {"arguments": ()}, {"fds": 4}, {}],
)
def test_what_it_does_not(wrong: dict[str, Any]) -> None:
    reading, writing = os.pipe()
    fds = [os.dup(writing) for _ in range(wrong.get("fds", 5))]  # pipes, where sockets should be, too
    os.close(writing)
    with pytest.raises(ValueError, match="a hand-over that cannot be used"):
        guest_of({**MESSAGE, **wrong}, fds)
    assert os.read(reading, 1) == b""
    os.close(reading)
