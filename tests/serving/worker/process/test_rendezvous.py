"""How the processes of the backend find each other, and their messages."""

from __future__ import annotations

import marshal
import os
import socket
import struct
import subprocess
import sys
import threading
from array import array
from collections.abc import Iterator

import pytest

from serving.worker.process import rendezvous
from tests.serving.worker.frontend import HOLD, ROOT, idle, nobody

pytestmark = pytest.mark.skipif(not rendezvous.supported, reason="there is no prefork process on this system")
IMPORTED = "from serving.worker.process import rendezvous as r"


@pytest.fixture
def name() -> str:
    """Return a name of its own: a test has no process number, but a socket of this process has a number."""
    with socket.socket() as unique:
        unique.bind(("127.0.0.1", 0))
        return f"\0torchmar-test-{os.getpid()}-{unique.getsockname()[1]}"


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_a_message_with_descriptors(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    reader, writer = os.pipe()
    message = {"argv": ["a"], "environ": {"A": "b\udcff"}, "arguments": ("x", 1, False), "n": {3: (4, 5)}}
    rendezvous.send(ours, message, (reader, writer))
    os.close(reader)
    os.close(writer)
    received = rendezvous.receive(theirs)
    assert received is not None
    assert received[0] == message
    reader, writer = received[1]
    os.write(writer, b"hello")
    assert os.read(reader, 10) == b"hello"
    # A program that a handler starts must not keep them open.
    assert not os.get_inheritable(reader)
    assert not os.get_inheritable(writer)
    os.close(reader)
    os.close(writer)
    assert theirs.gettimeout() is None


def test_several_messages_each_with_its_own_descriptors(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    pipes = [os.pipe() for _ in range(3)]
    for number, (reader, _) in enumerate(pipes):
        rendezvous.send(ours, {"n": number}, (reader,))
    ours.close()
    for number, (reader, writer) in enumerate(pipes):
        received = rendezvous.receive(theirs)
        assert received is not None
        assert received[0] == {"n": number}
        (copy,) = received[1]
        assert os.path.sameopenfile(copy, reader)
        for fd in (copy, reader, writer):
            os.close(fd)
    assert rendezvous.receive(theirs) is None


def test_a_message_larger_than_the_socket_takes_at_once(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    message = {"environ": {"A": "x" * 5_000_000}}
    fd = os.open(os.devnull, os.O_RDONLY)
    sender = threading.Thread(target=rendezvous.send, args=(ours, message, (fd,)))
    sender.start()
    received = rendezvous.receive(theirs)
    sender.join()
    assert received is not None
    assert received[0] == message
    assert len(received[1]) == 1
    for one in (fd, *received[1]):
        os.close(one)


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        b"\0\0\0\x05ab",
        struct.pack("!I", 2**32 - 1),
        struct.pack("!I", 3) + b"\xff\xff\xff",
        struct.pack("!I", 0),
        struct.pack("!I", len(marshal.dumps([1]))) + marshal.dumps([1]),
        struct.pack("!I", len(marshal.dumps({"a": "b" * 99})) - 9) + marshal.dumps({"a": "b" * 99})[:-9],
    ],
)
def test_what_is_no_message(pair: tuple[socket.socket, socket.socket], data: bytes) -> None:
    """It is refused, and the descriptors that came with it do not stay open."""
    ours, theirs = pair
    reader, writer = os.pipe()
    ours.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", [writer]))])
    ours.close()
    os.close(writer)
    with pytest.raises(ValueError, match=r"message|inside|marshal"):
        rendezvous.receive(theirs)
    assert os.read(reader, 1) == b""
    os.close(reader)


def test_the_other_side_has_gone(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.close()
    with pytest.raises(BrokenPipeError):
        rendezvous.send(ours, {"a": 1})


def test_what_cannot_be_sent(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(ValueError, match="unmarshallable"):
        rendezvous.send(pair[0], {"a": object()})


def test_listening_and_connecting(name: str) -> None:
    assert rendezvous.connect(name) is None
    listener = rendezvous.listen(name)
    assert listener is not None
    with listener:
        assert rendezvous.listen(name) is None
        ours = rendezvous.connect(name)
        theirs, _ = listener.accept()
        assert ours is not None
        with ours, theirs:
            assert rendezvous.peer(ours) == rendezvous.peer(theirs) == (os.getpid(), os.getuid())
            rendezvous.send(ours, {"a": 1})
            assert rendezvous.receive(theirs) == ({"a": 1}, [])
    again = rendezvous.listen(name)
    assert again is not None
    again.close()


def test_the_name_goes_with_its_process(name: str) -> None:
    code = f"import sys; {IMPORTED}; s = r.listen(sys.argv[1]); print(s.fileno()); input()"
    # The operating system allows no zero byte in an argument.
    code = code.replace("sys.argv[1]", "chr(0) + sys.argv[1]")
    with subprocess.Popen([sys.executable, "-c", code, name[1:]], cwd=ROOT, stdin=-1, stdout=-1) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert rendezvous.listen(name) is None
        process.kill()
    listener = rendezvous.listen(name)
    assert listener is not None
    listener.close()


def test_another_user_has_the_name(name: str) -> None:
    with nobody(HOLD, name[1:]) as held:
        assert held == "True"
        with pytest.raises(PermissionError, match=f"the user 65534 holds the socket @{name[1:]}"):
            rendezvous.connect(name)


def test_nobody_is_accepted(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "_CONNECT_TIMEOUT_S", 1)
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(name)
        listener.listen(0)
        first.connect(name)
        with pytest.raises(TimeoutError, match="accepts nobody"):
            rendezvous.connect(name)


@pytest.mark.parametrize("key", [None, "0123456789abcdef"])
def test_another_user_cannot_tell_the_address(key: str | None) -> None:
    environ = {} if key is None else {rendezvous.KEY: key}
    guess = "os.getuid = lambda: 0; print(rendezvous.address(int(sys.argv[1]))[1:], flush=True)"
    with idle(**environ) as server:
        try:
            name = rendezvous.address(server.pid)
            with nobody(guess, str(server.pid)) as guessed:
                assert guessed.rpartition("-")[0] == name[1:].rpartition("-")[0]
                assert guessed != name[1:]
        finally:
            server.kill()


def test_the_address_is_of_the_key_of_the_server() -> None:
    """It is known before the process has become the server."""
    with idle(**{rendezvous.KEY: "a key"}) as server:
        try:
            assert rendezvous.address(server.pid) == rendezvous.address(server.pid, "a key")
            assert rendezvous.address(server.pid) != rendezvous.address(server.pid, "another")
        finally:
            server.kill()


def test_a_server_that_hides_from_its_own_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel shows nothing of a Java with capabilities of its own, but its children have its environment."""

    def denied(pid: int, name: str) -> bytes:
        raise PermissionError(name)

    monkeypatch.setattr(rendezvous, "_read", denied)
    monkeypatch.setenv(rendezvous.KEY, "a key")
    assert rendezvous.address(1) == rendezvous.address(1, "a key")
    monkeypatch.delenv(rendezvous.KEY)
    assert rendezvous.address(1) == rendezvous.address(1, "")


def test_the_address_is_of_the_server_and_the_interpreter(tmp_path: object) -> None:
    own = rendezvous.address(1)
    assert own.startswith("\0torchmar-")
    assert own == rendezvous.address(1)
    assert own != rendezvous.address(11)
    code = f"import sys; sys.executable = sys.argv[1]; {IMPORTED}; print(r.address(1)[1:])"

    def of(executable: str) -> str:
        command = [sys.executable, "-c", code, executable]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()

    assert of(sys.executable) == own[1:]
    assert of("/another/python") != own[1:]


def test_little_is_imported() -> None:
    """There is a process like this for every worker."""
    code = "import sys; old = set(sys.modules); import serving.worker.starting.launch; print(*set(sys.modules) - old)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    imported = {name.partition(".")[0] for name in done.stdout.split()}
    assert not imported & {"torch", "numpy", "yaml", "pathlib", "dataclasses", "logging", "typing_extensions", "json"}
