"""The prefork process, driven by the messages of thin processes, with some other process in the server's place."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from serving.protocol import Load, encode_load
from serving.worker.process import inheritance, rendezvous
from serving.worker.process.arguments import Arguments
from serving.worker.starting.child import Guest
from serving.worker.starting.prefork import _Prefork
from serving.worker.starting.processes import Worker
from tests.serving.worker.frontend import (
    METRICS,
    SCRIPT,
    TIMEOUT_S,
    WITHOUT_TORCH,
    Log,
    Peer,
    Server,
    archive,
    ends,
    idle,
    rest,
    wait_for,
)

pytestmark = pytest.mark.skipif(not rendezvous.supported, reason="there is no prefork process on this system")

PID = """
    import os

    def handle(data, context):
        return [os.getpid()] * len(data or [])
"""


class Thins:
    """Thin processes of a prefork process, as far as it can tell.

    Args:
        owner: pid of the server.
        path: folders on the server's PYTHONPATH.
    """

    def __init__(self, owner: int, path: tuple[Path, ...] = ()) -> None:
        self.name = rendezvous.address(owner)
        self._path = [str(folder) for folder in path]
        self._folder = tempfile.TemporaryDirectory()
        self._numbers = itertools.count()
        self.thins: list[Thin] = []

    def connect(self) -> socket.socket:
        connection = rendezvous.connect(self.name)
        assert connection is not None
        connection.settimeout(TIMEOUT_S)
        return connection

    def thin(self, folder: Path, **changes: Any) -> Thin:
        """Do what a thin process does up to the answer."""
        changes = {"path": [*self._path, str(folder), *filter(None, sys.path)], **changes}
        thin = Thin(self.connect(), folder, f"{self._folder.name}/.ts.sock.{next(self._numbers)}", changes)
        self.thins.append(thin)
        return thin

    def backends(self) -> dict[int, tuple[int, int]]:
        with self.connect() as connection:
            rendezvous.send(connection, {"query": "backends"})
            received = rendezvous.receive(connection)
        assert received is not None
        return dict(received[0]["backends"])

    def end(self) -> None:
        for thin in self.thins:
            thin.close()
        self.thins.clear()

    def close(self) -> None:
        self.end()
        self._folder.cleanup()


class Prefork(Thins):
    """A prefork process whose server is a process that does nothing."""

    def __init__(self, path: tuple[Path, ...] = ()) -> None:
        self.owner = idle()
        super().__init__(self.owner.pid, path)
        listener = rendezvous.listen(self.name)
        assert listener is not None
        command = [sys.executable, str(SCRIPT), "--prefork", str(listener.fileno()), str(self.owner.pid)]
        environ = {**os.environ, "PYTHONPATH": os.pathsep.join(self._path)}
        null = subprocess.DEVNULL
        self.process = subprocess.Popen(
            command, pass_fds=[listener.fileno()], stdin=null, stdout=null, stderr=null, env=environ
        )
        listener.close()

    def children(self) -> set[int]:
        return {child.pid for child in psutil.Process(self.process.pid).children()}

    def close(self) -> None:
        self.owner.kill()
        self.owner.communicate()
        found = self.children() if self.process.poll() is None else set()
        self.process.kill()
        self.process.wait()
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        super().close()


class Thin:
    """A stand-in for a thin process."""

    def __init__(self, control: socket.socket, folder: Path, path: str, changes: dict[str, Any]) -> None:
        self.control, self.path, self.folder = control, path, folder
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1)
        self.lifeline, theirs = socket.socketpair()
        self.lifeline.settimeout(TIMEOUT_S)
        (out, stdout), (err, stderr) = os.pipe(), os.pipe()
        message = {
            "argv": [str(SCRIPT)],
            "environ": {"PATH": os.environ["PATH"]},
            "cwd": str(folder),
            "arguments": tuple(Arguments(path, "", 0, str(METRICS), False, 0)),
            "inherited": inheritance.take(),
            **changes,
        }
        stdin, self._stdin = os.pipe()
        rendezvous.send(control, message, (listener.fileno(), stdin, stdout, stderr, theirs.fileno()))
        os.close(stdin)
        listener.close()
        theirs.close()
        os.close(stdout)
        os.close(stderr)
        self.out, self.err = Log(out), Log(err)
        self.peer: Peer | None = None

    def answer(self) -> bytes:
        return self.control.recv(1)

    def connect(self) -> Peer:
        """Connect as the frontend."""
        self.peer = Peer(socket.socket(socket.AF_UNIX))
        self.peer.sock.connect(self.path)
        return self.peer

    def load(self) -> Peer:
        assert self.answer() == rendezvous.TAKEN
        peer = self.connect()
        reply = peer.load(self.folder)
        assert reply.code == 200, self.out.text
        return peer

    def status(self) -> int:
        """Return what the prefork process reports of the end."""
        data = self.control.recv(5)
        assert data[:1] == rendezvous.EXITED, data
        code: int = rendezvous.STATUS.unpack(data[1:])[0]
        return code

    def is_told_of_the_end(self) -> bool:
        return self.lifeline.recv(1) == b""

    def die(self) -> None:
        """Imitate the end of a process that is killed."""
        self.control.close()
        self.lifeline.close()
        if self._stdin >= 0:
            os.close(self._stdin)
        self._stdin = -1

    def close(self) -> None:
        self.die()
        if self.peer:
            self.peer.close()


@pytest.fixture(scope="module")
def _prefork(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prefork]:
    # Without torch, whose import takes seconds.
    prefork = Prefork((archive(tmp_path_factory.mktemp("path") / "without torch", files=WITHOUT_TORCH),))
    yield prefork
    prefork.close()


@pytest.fixture
def prefork(_prefork: Prefork) -> Iterator[Prefork]:
    yield _prefork
    _prefork.end()
    assert wait_for(lambda: not _prefork.children()), "processes have been left behind"


@pytest.fixture
def complete(server: Server) -> Iterator[Thins]:
    """Yield one that has imported all that it will."""
    thins = Thins(server.pid)
    yield thins
    thins.close()


def test_a_worker_gets_a_process_of_its_own(prefork: Prefork, tmp_path: Path) -> None:
    folder = archive(tmp_path / "model", PID)
    peers = [prefork.thin(folder).load() for _ in range(2)]
    pids = {int(peer.answer()) for peer in peers}
    assert pids == prefork.children()
    assert len(pids) == 2
    # All thin processes of this test have one number.
    assert set(prefork.backends()) == {os.getpid()}
    peers[0].close()
    assert prefork.thins[0].status() == 0
    assert prefork.thins[0].is_told_of_the_end()
    assert wait_for(lambda: len(prefork.children()) == 1)
    assert peers[1].answer()


def test_torch_is_there_and_uses_no_threads_that_do_not_survive(complete: Thins, tmp_path: Path) -> None:
    source = """
        import sys

        LOADED = sorted({"torch", "numpy", "ts"} & set(sys.modules)), "handlers" in sys.modules
        import torch

        def handle(data, context):
            torch.set_num_threads(2)
            result = (torch.ones(2000, 2000) @ torch.ones(2000, 2)).sum().item()
            return [[LOADED, result]] * len(data or [])
    """
    peer = complete.thin(archive(tmp_path / "model", source)).load()
    assert json.loads(peer.answer()) == [[["numpy", "torch", "ts"], False], 8_000_000.0]


# ---- modules of the model --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["yaml.py", "numpy/__init__.py", "json/x.py", "torch.pyc", "PIL.cpython-311.so", "ts/context.py", "typing.py"],
)
def test_a_module_that_would_come_too_late(complete: Thins, tmp_path: Path, name: str) -> None:
    folder = archive(tmp_path / "model", PID, files={name: ""})
    thin = complete.thin(folder)
    assert thin.answer() == rendezvous.PLAIN
    # Nothing of it is kept.
    assert thin.control.recv(1) == b""
    assert thin.is_told_of_the_end()
    thin.out.rest()
    thin.err.rest()
    with pytest.raises(ConnectionRefusedError):
        thin.connect()


@pytest.mark.parametrize(
    "name",
    ["serving.py", "archive_tool/x.py", "handlers/__init__.py", "yaml.txt", "numpy.tar.gz", "data/yaml.py", "torch.pt"],
)
def test_a_module_that_does_not_stand_in_the_way(complete: Thins, tmp_path: Path, name: str) -> None:
    assert complete.thin(archive(tmp_path / "model", PID, files={name: ""})).load().answer()


def test_a_module_elsewhere_on_the_path(complete: Thins, tmp_path: Path) -> None:
    """Such as the folder in which the frontend has installed a model's requirements."""
    folder = archive(tmp_path / "model", PID)
    (tmp_path / "installed" / "yaml").mkdir(parents=True)
    thin = complete.thin(folder, path=[str(folder), str(tmp_path / "installed"), *sys.path])
    assert thin.answer() == rendezvous.PLAIN
    thin = complete.thin(folder, path=[str(folder), str(tmp_path / "not there"), *sys.path])
    assert thin.answer() == rendezvous.TAKEN


def test_what_was_imported_last_is_known_as_well(complete: Thins, tmp_path: Path) -> None:
    """Some libraries are imported only when there is nothing else to do."""
    source = """
        import sys

        def handle(data, context):
            return [sorted(name for name, module in sys.modules.items() if "." not in name)] * len(data or [])
    """
    peer = complete.thin(archive(tmp_path / "model", source)).load()
    # What loading a model imports is the affair of its process.
    loaded = set(json.loads(peer.answer())) - {
        "serving",
        "archive_tool",
        "handlers",
        "handler",
        "__main__",
        "uuid",
        "_uuid",
    }
    assert {"torch", "json"} < loaded
    wrong = []
    for name in sorted(loaded):
        folder = tmp_path / "each" / name
        folder.mkdir(parents=True)
        (folder / f"{name}.py").touch()
        if complete.thin(folder).answer() != rendezvous.PLAIN:
            wrong.append(name)
        complete.thins[-1].close()
    assert wrong == []


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


# ---- ends ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("end", "code"), [("os._exit(0)", 0), ("os._exit(137)", 137), ("os.kill(os.getpid(), 9)", 137), ("sys.exit(3)", 3)]
)
def test_how_a_process_has_ended(prefork: Prefork, tmp_path: Path, end: str, code: int) -> None:
    source = f"""
        import os, sys

        def handle(data, context):
            return {end} if data else None
    """
    thin = prefork.thin(archive(tmp_path / "model", source))
    peer = thin.load()
    peer.send(rest("1"))
    assert peer.is_closed()
    assert thin.status() == code
    assert thin.is_told_of_the_end()
    assert prefork.backends() == {}


def test_a_handler_that_does_not_let_go_of_the_interpreter(prefork: Prefork, tmp_path: Path) -> None:
    """Its process cannot see that its worker was killed; it is killed in its turn."""
    source = """
        import ctypes, os

        def handle(data, context):
            if data:
                print(os.getpid(), "is busy")
                ctypes.PyDLL(None).sleep(1000)
    """
    thin = prefork.thin(archive(tmp_path / "model", source))
    thin.load().send(rest("1"))
    pid = int(thin.out.wait(" is busy\n").splitlines()[-1].split()[0])
    thin.die()
    assert ends(pid)


def test_a_shared_process_that_is_ending_takes_no_more(prefork: Prefork, tmp_path: Path) -> None:
    """The next worker gets a new one, however close it comes after the last one."""
    folder = archive(tmp_path / "model", PID, config={"backend": {"mode": "shared"}})
    pids = set()
    for _ in range(10):
        thin = prefork.thin(folder)
        peer = thin.load()
        pids.add(int(peer.answer()))
        thin.close()
    assert prefork.thin(folder).load().answer()
    assert pids


def test_a_stopped_process_does_not_stop_the_others(prefork: Prefork, tmp_path: Path) -> None:
    folder = archive(tmp_path / "shared", PID, config={"backend": {"mode": "shared"}})
    first = prefork.thin(folder).load()
    pid = int(first.answer())
    os.kill(pid, signal.SIGSTOP)
    try:
        further = prefork.thin(folder)
        further.connect().send_load(folder)
        assert prefork.thin(archive(tmp_path / "dedicated", PID)).load().answer()
    finally:
        os.kill(pid, signal.SIGCONT)
    assert further.peer is not None
    assert further.peer.reply().code == 200
    assert int(further.peer.answer()) == pid


@pytest.fixture
def another(without_torch: Path) -> Iterator[Callable[[], Prefork]]:
    """Start one, without torch, for a test that may do to it what it wants."""
    found: list[Prefork] = []

    def start() -> Prefork:
        found.append(Prefork((without_torch,)))
        return found[-1]

    yield start
    for prefork in found:
        prefork.close()


def test_it_ends_with_the_server_and_removes_the_sockets(another: Callable[[], Prefork], tmp_path: Path) -> None:
    """Before and after the frontend has connected; the thin processes are not there any more to do it."""
    prefork = another()
    folder = archive(tmp_path / "model", PID)
    waiting, working = prefork.thin(folder), prefork.thin(folder)
    pid = int(working.load().answer())
    assert waiting.answer() == rendezvous.TAKEN
    prefork.owner.kill()
    prefork.owner.wait()
    assert prefork.process.wait(TIMEOUT_S) == 0
    assert not Path(waiting.path).exists()
    assert not Path(working.path).exists()
    assert rendezvous.connect(prefork.name) is None
    # Its thin process has not ended here: this one may be unable to see that.
    assert ends(pid)


def test_it_ends_with_the_server_in_the_middle_of_an_import(tmp_path: Path) -> None:
    """Here one that does not end; torch's takes seconds."""
    endless = "import pathlib, time\npathlib.Path(__file__).with_name('begun').touch()\ntime.sleep(1000)\n"
    folder = archive(tmp_path / "slow", files={"torch.py": endless})
    prefork = Prefork((folder,))
    try:
        assert wait_for((folder / "begun").exists)
        prefork.owner.kill()
        prefork.owner.wait()
        assert prefork.process.wait(TIMEOUT_S) == 0
    finally:
        prefork.close()


def test_it_is_killed(another: Callable[[], Prefork], tmp_path: Path) -> None:
    """Workers that serve go on, and still end with their workers."""
    prefork = another()
    folder = archive(tmp_path / "model", PID)
    waiting, working = prefork.thin(folder), prefork.thin(folder)
    peer = working.load()
    pid = int(peer.answer())
    assert waiting.answer() == rendezvous.TAKEN
    prefork.process.kill()
    assert working.control.recv(1) == b""
    assert waiting.is_told_of_the_end()
    assert int(peer.answer()) == pid
    working.die()
    assert ends(pid)


def test_a_worker_that_cannot_be_given_a_process_ends(tmp_path: Path) -> None:
    """With a fork that fails, as it does without memory, put in the place of the real one."""
    listener = socket.socket(socket.AF_UNIX)
    serving = _Prefork(listener, os.getpid())
    ours, theirs = socket.socketpair()
    lifeline, other_end = socket.socketpair()
    pipes = os.pipe()
    try:
        guest = Guest(
            Arguments("", "", 0, "", False, 0), [], {}, str(tmp_path), [], {}, -1, -1, os.dup(pipes[1]), lifeline
        )
        worker = Worker(socket.socket(socket.AF_UNIX), 1, guest, ours)
        serving._workers.add(worker)
        serving._selector.register(ours, selectors.EVENT_READ)
        theirs.sendall(encode_load(Load("m", str(tmp_path), handler="h.py")))

        def fail(*_: object) -> None:
            raise OSError(12, "Cannot allocate memory")

        serving._processes._fork = fail  # type: ignore[method-assign]
        serving._call(lambda: serving._readable(worker))
        assert serving._workers == set()
        assert other_end.recv(1) == b""
        assert theirs.recv(1) == b""
        assert b"Cannot allocate memory" in os.read(pipes[0], 10_000)
        # The log is not read: it is not waited for.
        os.set_blocking(pipes[1], False)
        with contextlib.suppress(BlockingIOError):
            while os.write(pipes[1], bytes(4096)):
                pass
        os.set_blocking(pipes[1], True)
        guest.stderr = os.dup(pipes[1])
        serving._workers.add(worker)
        serving._call(lambda: fail())
        guest.close()
    finally:
        for end in (theirs, other_end, listener):
            end.close()
        for fd in pipes:
            os.close(fd)
