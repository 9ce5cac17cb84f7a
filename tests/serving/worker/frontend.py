"""A player of the frontend: starts workers as it does, reads their pipes as it does, and talks over their sockets."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from serving.protocol import (
    Inference,
    Load,
    Parameter,
    Reply,
    ReplyDecoder,
    Request,
    encode_inference,
    encode_load,
)
from serving.worker import __file__ as worker_file
from serving.worker.process import rendezvous

TIMEOUT_S = 60.0
"""For what must happen, however busy the machine is."""

ROOT = Path(worker_file).parents[2]
SCRIPT = Path(worker_file).parent / "home" / "ts" / "model_service_worker.py"
STOCK_SCRIPT = Path(find_spec("ts").submodule_search_locations[0]) / "model_service_worker.py"  # type: ignore
"""TorchServe's own worker."""
METRICS = SCRIPT.parent / "configs" / "metrics.yaml"
WITHOUT_TORCH = {"torch.py": "raise ImportError('not here')"}
"""Files of an archive, or of another folder on the path, that save seconds where torch plays no part."""
ONLY_TENSORS = {
    "torch.py": """
        class Tensor:
            pass

        def get_num_threads():
            return 1

        def set_num_threads(count):
            pass
    """
}
"""The same, where TorchServe's own modules are used, which must know a tensor among answers; and what ours ask then."""
REST = {"Host": "here"}
"""Headers that tell a request over HTTP from one over gRPC, which has none."""

# The frontend's own process: its orders come over a socket, with the pipes of the worker to be.
_JAVA = """
import ctypes, os, select, socket, subprocess, sys
sys.path.insert(0, {root!r})
from serving.worker.process import rendezvous
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(15, {name!r}, 0, 0, 0)
control = socket.socket(fileno=int(sys.argv[1]))
children = {{}}
while select.select([control], [], []) and (received := rendezvous.receive(control)):
    message, fds = received
    if "wait" in message:
        try:
            answer = children[message["wait"]].wait({timeout})
        except subprocess.TimeoutExpired:
            answer = None
    elif "do" in message:
        answer = exec(message["do"])
    else:
        stdin, stdout, stderr = fds
        child = subprocess.Popen(**message, stdin=stdin, stdout=stdout, stderr=stderr)
        children[child.pid] = child
        answer = child.pid
        for fd in fds:
            os.close(fd)
    rendezvous.send(control, {{"answer": answer}})
"""


def archive(
    folder: Path,
    source: str = "",
    *,
    handler: str = "handler.py",
    config: Mapping[str, Any] | None = None,
    files: Mapping[str, str] | None = None,
) -> Path:
    """Write a folder as an archive is when extracted."""
    (folder / "MAR-INF").mkdir(parents=True)
    model = {"modelName": "model", "modelVersion": "1.0", "handler": handler}
    if source:
        (folder / "handler.py").write_text(textwrap.dedent(source))
    if config is not None:
        model["configFile"] = "model-config.yaml"
        (folder / "model-config.yaml").write_text(yaml.safe_dump(dict(config)))
    (folder / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"model": model}))
    for name, text in (files or {}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return folder


def rest(request_id: str, body: bytes | None = b"", **headers: str) -> Request:
    """Return a request over HTTP."""
    parameters = () if body is None else (Parameter("body", bytearray(body)),)
    return Request(request_id, {**REST, **headers}, parameters)


def grpc(request_id: str, body: bytes = b"") -> Request:
    """Return a request over gRPC: it has no headers."""
    return Request(request_id, {}, (Parameter("body", bytearray(body)),))


def bodies(reply: Reply) -> list[bytes]:
    assert reply.code == 200, reply
    return [bytes(item.body) for item in reply.items]


def wait_for(happened: Callable[[], object]) -> bool:
    """Return whether something comes true, sooner or later."""
    deadline = time.monotonic() + TIMEOUT_S
    while not happened():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def has_ended(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)  # whose parent does not look
    except psutil.NoSuchProcess:
        return True


def ends(*pids: int) -> bool:
    """Return whether these processes end, sooner or later."""
    return wait_for(lambda: all(has_ended(pid) for pid in pids))


def idle(**environ: str) -> subprocess.Popen[bytes]:
    """Return a process that does nothing. It has begun: only then the kernel shows its environment and its memory."""
    process = subprocess.Popen(["cat"], stdin=-1, stdout=-1, env={**os.environ, **environ})
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"\n")
    process.stdin.flush()
    process.stdout.readline()
    return process


def end_prefork(owner: int) -> None:
    """End the prefork process of a server that goes on, as the process of the tests does."""
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "--prefork" in command and command[-1] == str(owner):
            process.kill()
            process.wait(TIMEOUT_S)


@contextlib.contextmanager
def nobody(code: str, *arguments: str) -> Iterator[str]:
    """Run some code as another user of this machine, and read the line it prints; what it opens is open until the end.

    Args:
        code: knows `rendezvous`, `os` and `sys`.
        arguments: of it, in `sys.argv`.
    """
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    code = f"""
import os, sys
from serving.worker.process import rendezvous
os.setgroups([])
os.setgid(65534)
os.setuid(65534)
{textwrap.dedent(code)}
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, stdin=-1, stdout=-1, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


HOLD = """
    held = rendezvous.listen(chr(0) + sys.argv[1])
    print(held is not None, flush=True)
"""
"""Code for `nobody`: takes the name of a socket."""


def prefork_processes(owner: int) -> set[int]:
    """Return the prefork process of a server and those forked from it."""
    found = set()
    for process in psutil.process_iter(["cmdline", "status"]):
        line = process.info["cmdline"] or []
        if "--prefork" in line and line[-1] == str(owner) and process.info["status"] != psutil.STATUS_ZOMBIE:
            found.add(process.pid)
    return found


class Log:
    """A reader of a pipe to its end, as a thread of the frontend does it."""

    def __init__(self, fd: int) -> None:
        self.data = b""
        self.ended = False
        self._fd = fd
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        data = b"-"
        while data:
            data = os.read(self._fd, 65536)
            with self._changed:
                self.data += data
                self.ended = not data
                self._changed.notify_all()
        os.close(self._fd)

    @property
    def text(self) -> str:
        return self.data.decode()

    def wait(self, text: str) -> str:
        """Return all that was written, once the text is in it."""
        with self._changed:
            found = self._changed.wait_for(lambda: text in self.text or self.ended, TIMEOUT_S)
        assert found, f"no {text!r}, and no end, in {self.text}"
        assert text in self.text, f"no {text!r} in {self.text}"
        return self.text

    def rest(self) -> str:
        """Return all that was written, at the end of the pipe."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.ended, TIMEOUT_S), f"no end of {self.text}"
        return self.text


class Peer:
    """The frontend's end of a connection to a worker."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(TIMEOUT_S)
        self.sock = sock
        self._decoder = ReplyDecoder()

    def send_load(self, folder: Path | str, handler: str | None = "handler.py", **fields: Any) -> None:
        fields = {"model_name": "model", "batch_size": 8, **fields}
        self.sock.sendall(encode_load(Load(model_path=str(folder), handler=handler, **fields)))

    def load(self, folder: Path | str, handler: str | None = "handler.py", **fields: Any) -> Reply:
        self.send_load(folder, handler, **fields)
        return self.reply()

    def refuses(self, folder: Path | str, handler: str | None = "handler.py", **fields: Any) -> bool:
        """Return whether the worker closes the connection without an answer: it cannot load the model."""
        self.send_load(folder, handler, **fields)
        return self.is_closed()

    def send(self, *requests: Request) -> None:
        self.sock.sendall(encode_inference(Inference(requests)))

    def ask(self, *requests: Request) -> Reply:
        self.send(*requests)
        return self.reply()

    def answer(self, body: bytes = b"") -> bytes:
        """Return the body of the answer to a request over HTTP."""
        (content,) = bodies(self.ask(rest("1", body)))
        return content

    def reply(self) -> Reply:
        """Return the next reply; EOFError if the worker closes the connection."""
        while (reply := self._decoder.next_message()) is None:
            data = self.sock.recv(65536)
            if not data:
                raise EOFError
            self._decoder.feed(data)
        return reply

    def is_closed(self) -> bool:
        """Return whether the worker closes the connection, and says no more."""
        with contextlib.suppress(ConnectionResetError):
            return self.sock.recv(1) == b""
        return True

    def close(self) -> None:
        self.sock.close()


class Worker(Peer):
    """A worker's process, and the connection to it.

    Attributes:
        pid: of the process that the frontend started, by which it kills it.
    """

    def __init__(self, start: Callable[[list[str], dict[str, str], tuple[int, int, int]], int], folder: Path) -> None:
        self._sockets = tempfile.TemporaryDirectory()  # the paths of pytest are long for a socket
        self.path = Path(self._sockets.name) / ".ts.sock.9000"
        self.folder = folder
        command = [sys.executable, str(SCRIPT), "--sock-type", "unix", "--sock-name", str(self.path)]
        command += ["--metrics-config", str(METRICS)]
        (stdin, self.stdin), (out, stdout), (err, stderr) = os.pipe(), os.pipe(), os.pipe()
        environ = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "OMP_NUM_THREADS")}
        environ["PYTHONPATH"] = os.pathsep.join([str(folder), str(SCRIPT.parents[1])])
        self.pid = start(command, environ, (stdin, stdout, stderr))
        for fd in (stdin, stdout, stderr):
            os.close(fd)
        self.out, self.err = Log(out), Log(err)

    def connect(self) -> Worker:
        """Connect as the frontend does, at once after the worker has said that it started."""
        self.out.wait("Torch worker started.\n")
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.path))
        return self.attach(sock)

    def attach(self, sock: socket.socket) -> Worker:
        """Take a connection to it."""
        Peer.__init__(self, sock)
        return self

    def kill(self) -> None:
        """Kill it as the frontend ends a worker."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)

    def end(self) -> None:
        """Close and kill what there is."""
        self.kill()
        if hasattr(self, "sock"):
            self.close()
        if self.stdin >= 0:
            os.close(self.stdin)
        self.stdin = -1
        self._sockets.cleanup()


class Server:
    """A process that starts workers and is, by name, the frontend's.

    Args:
        path: folders on its PYTHONPATH.
    """

    def __init__(self, name: bytes = b"java", path: tuple[Path, ...] = ()) -> None:
        code = _JAVA.format(root=str(ROOT), name=name, timeout=TIMEOUT_S)
        self._control, theirs = socket.socketpair()
        self._process = subprocess.Popen([sys.executable, "-c", code, str(theirs.fileno())], pass_fds=[theirs.fileno()])
        theirs.close()
        self._workers: list[Worker] = []
        self.pid = self._process.pid
        self._path = [str(folder) for folder in path]
        self._options: list[str] = []

    def _call(self, message: dict[str, Any], fds: tuple[int, ...] = ()) -> Any:
        rendezvous.send(self._control, message, fds)
        self._control.settimeout(None)
        data = self._control.recv(4, socket.MSG_PEEK)  # it may take its time
        assert data
        received = rendezvous.receive(self._control)
        assert received is not None
        return received[0]["answer"]

    def do(self, code: str) -> None:
        """Let the server itself run some code."""
        self._call({"do": textwrap.dedent(code)})

    def start(
        self, folder: Path, *, tcp: int = 0, python: str = sys.executable, script: Path = SCRIPT, **environ: str
    ) -> Worker:
        """Start a worker, as the first of a model or as a further one.

        Args:
            tcp: port to listen on in the place of a unix socket.
            python: to run it.
            script: of the worker.
            environ: beside the server's own.
        """

        def spawn(command: list[str], base: dict[str, str], fds: tuple[int, int, int]) -> int:
            base["PYTHONPATH"] = os.pathsep.join([*self._path, base["PYTHONPATH"]])
            command[:2] = [python, str(script)]
            if tcp:
                place = command.index("--sock-type")
                command[place : place + 4] = ["--sock-type", "tcp", "--port", str(tcp)]
            message = {"args": [*command, *self._options], "cwd": str(folder), "env": {**base, **environ}}
            pid: int = self._call(message, fds)
            return pid

        worker = Worker(spawn, folder)
        self._workers.append(worker)
        return worker

    def worker(self, folder: Path, **environ: Any) -> Worker:
        """Return a worker that is connected."""
        return self.start(folder, **environ).connect()

    @contextlib.contextmanager
    def asynchronous(self) -> Iterator[Server]:
        """Start workers meanwhile as those of a model with ``asyncCommunication: true``."""
        self._options = ["--async"]
        try:
            yield self
        finally:
            self._options = []

    def settle(self, folder: Path) -> None:
        """Wait until the prefork process has imported all that it will; meanwhile it does not answer."""
        source = """
            import sys

            def handle(data, context):
                return ["torchvision" in sys.modules] * len(data or [])
        """
        archive(folder / "model", source)

        def has_settled() -> bool:
            worker = self.worker(folder / "model")
            worker.load(folder / "model")
            answer = worker.answer()
            self.end_workers()
            return answer == b"true"

        assert wait_for(has_settled)

    def status(self, worker: Worker) -> int | None:
        """Return the exit code of a worker's process, as Java has it."""
        code: int | None = self._call({"wait": worker.pid})
        return code

    def prefork(self) -> int:
        """Return the prefork process."""
        (pid,) = {
            pid for pid in prefork_processes(self.pid) if psutil.Process(pid).ppid() not in prefork_processes(self.pid)
        }
        return pid

    def end_workers(self) -> None:
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def kill(self) -> None:
        """Kill the server alone: all that it has started ends by itself."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """Kill all of it. What would end by itself need not do so in a hurry: it may be importing torch."""
        self.end_workers()
        self.kill()
        self._control.close()
        while found := prefork_processes(self.pid):
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
