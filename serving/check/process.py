"""A worker's process as the frontend starts it, and the frontend's end of the connection to it."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from archive_tool.errors import InputError
from serving.control.configuration.java import worker_home
from serving.control.configuration.workers import command_of, environment_of
from serving.errors import StartError
from serving.protocol import Inference, Load, Reply, ReplyDecoder, Request, encode_inference, encode_load
from serving.worker.answering.warm_up import VARIABLE as WARM_UP
from serving.worker.scripts.collector import memory_of

# The frontend gives up on a worker that has not reported its start after this many seconds.
_START_S = 120.0
_LEAVE_S = 2.0
_DUMP_S = 5.0
# Bytes of each pipe that are kept, the last ones.
_KEPT = 4 << 20
_UNIX_PATH_MAX = 100
_STARTED = "Torch worker started."
# What a worker prints for the frontend, and a line of TorchServe's own that every worker begins with.
_PROTOCOL = re.compile(r"(\[PID\]\d+|Torch worker started\.|\[METRICS\].*|Successfully loaded \S*metrics\.yaml\.)$")
_QUIET_S = 0.1
_SETTLE_S = 1.0


def is_protocol(line: str) -> bool:
    """Return whether a line of a worker's output is meant for the frontend, or one that every worker prints."""
    return _PROTOCOL.match(line) is not None


class EndedError(Exception):
    """The worker's process has ended, or closed its connection."""


class NoAnswerError(Exception):
    """The worker has not answered in time."""


class Worker:
    """A worker's process; a context manager that leaves nothing of it behind.

    Args:
        folder: of the extracted archive.
        scratch: an empty folder, for the socket and for what the handler puts into its temporary folder.
        python: interpreter.
        handler: of the model, as its manifest names it.
        asynchronous: whether to speak the frontend's asynchronous mode.
        tell: gets each line as it is printed, and whether it is of standard error; called by other threads.
    """

    def __init__(
        self,
        folder: Path,
        scratch: Path,
        *,
        python: str,
        handler: str | None = None,
        asynchronous: bool = False,
        tell: Callable[[str, bool], None] | None = None,
    ) -> None:
        self._decoder = ReplyDecoder()
        self._sock: socket.socket | None = None
        self._address: str | tuple[str, int] = str(scratch / ".ts.sock.9000")
        if len(os.fsencode(str(self._address))) > _UNIX_PATH_MAX:
            self._address = ("127.0.0.1", _free_port())
        home = worker_home()
        listens_at = self._address if isinstance(self._address, str) else self._address[1]
        try:
            self._process = subprocess.Popen(
                [python, *command_of(home, listens_at, asynchronous=asynchronous)],
                cwd=folder,
                env={
                    **environment_of(home, folder, handler),
                    "TMPDIR": str(scratch),
                    # The samples are sent as requests here, and timed.
                    WARM_UP: "0",
                    # SIGABRT makes it print where a handler hangs.
                    "PYTHONFAULTHANDLER": "1",
                },
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                start_new_session=True,  # Ctrl-C is for us; and the whole group can be ended
            )
        except OSError as error:
            raise InputError(f"the interpreter {python} cannot be started: {error.strerror}") from error
        self._out = _Pipe(self._process.stdout, tell and (lambda line: is_protocol(line) or tell(line, False)))
        self._err = _Pipe(self._process.stderr, tell and (lambda line: tell(line, True)))

    @property
    def pid(self) -> int:
        """Process id of the worker."""
        return self._process.pid

    @property
    def stdout(self) -> str:
        """Standard output, without the lines that are meant for the frontend."""
        return "".join(line for line in self._out.text.splitlines(True) if not is_protocol(line.rstrip("\n")))

    @property
    def stderr(self) -> str:
        """Standard error."""
        return self._err.text

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    # ---- the frontend's part ---------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Wait until the worker has started, and connect.

        Raises:
            EndedError: the worker ended before it started.
            StartError: the worker did not start in time.
        """
        if not self._out.wait(_STARTED, _START_S):
            if self._out.ended:
                raise EndedError
            raise StartError(f"the worker has not started within {_START_S:.0f} s")
        family = socket.AF_UNIX if isinstance(self._address, str) else socket.AF_INET
        self._sock = socket.socket(family)
        try:
            self._sock.connect(self._address)
        except OSError as error:
            raise EndedError from error

    def load(self, load: Load, timeout: float) -> Reply:
        """Have the worker load the model.

        Raises:
            EndedError: the worker ended, or closed the connection.
            NoAnswerError: it took longer than ``timeout`` seconds.
        """
        self._send(encode_load(load))
        return self.receive(timeout)

    def ask(self, request: Request, timeout: float) -> Reply:
        """Send one request and return the first reply.

        Raises:
            EndedError: the worker ended, or closed the connection.
            NoAnswerError: it took longer than ``timeout`` seconds.
        """
        self._send(encode_inference(Inference((request,))))
        return self.receive(timeout)

    def receive(self, timeout: float) -> Reply:
        """Wait for the next reply.

        Raises:
            EndedError: the worker ended, or closed the connection.
            NoAnswerError: it took longer than ``timeout`` seconds.
        """
        sock = self._connected()
        deadline = time.monotonic() + timeout
        while (reply := self._decoder.next_message()) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise NoAnswerError
            sock.settimeout(left)
            try:
                data = sock.recv(1 << 20)
            except TimeoutError as error:
                raise NoAnswerError from error
            except OSError as error:
                raise EndedError from error
            if not data:
                raise EndedError
            self._decoder.feed(data)
        return reply

    def _send(self, frame: bytes) -> None:
        sock = self._connected()
        sock.settimeout(None)
        try:
            sock.sendall(frame)
        except OSError as error:
            raise EndedError from error

    def _connected(self) -> socket.socket:
        if self._sock is None:
            raise EndedError
        return self._sock

    # ---- what can be observed of it ----------------------------------------------------------------------------------

    def lines(self) -> list[str]:
        """Return the lines of its standard output so far."""
        self.settle()
        return self.stdout.splitlines()

    def settle(self) -> None:
        """Wait until everything printed before now has arrived."""
        for pipe in (self._out, self._err):
            pipe.settle()

    def memory(self) -> tuple[int, int]:
        """Return its memory in bytes (PSS) and its peak (resident); 0 where that is unknown."""
        peak = 0
        with contextlib.suppress(OSError, ValueError, IndexError):
            for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
                if line.startswith("VmHWM:"):
                    peak = int(line.split()[1]) * 1024
        return memory_of(self.pid), peak

    def dump(self) -> str:
        """Have it print where all its threads are, which ends it; return what it printed."""
        before = len(self.stderr)
        with contextlib.suppress(ImportError, AttributeError, OSError, ValueError):
            import resource

            resource.prlimit(self.pid, resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError):
            self._process.send_signal(signal.SIGABRT)
        self.wait(_DUMP_S)
        return self.stderr[before:]

    def wait(self, timeout: float) -> int | None:
        """Wait for its end and for all that it printed; return the exit code, None if it has not ended."""
        try:
            code = self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None
        for pipe in (self._out, self._err):
            pipe.wait_for_end(_LEAVE_S)  # a process that the handler started may hold it open
        return code

    def end(self) -> None:
        """End it as the frontend does, by closing its connection. Kill it and all it started if that is not enough."""
        try:
            if self._sock is not None:
                self._sock.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(_LEAVE_S)
        finally:
            # Also after an orderly end: the handler may have started processes of its own.
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            if self._process.stdin is not None:
                self._process.stdin.close()
            for pipe in (self._out, self._err):
                pipe.wait_for_end(_LEAVE_S)


class _Pipe:
    """A pipe that a thread of its own reads to the end."""

    def __init__(self, stream: object, tell: Callable[[str], object] | None) -> None:
        self._tell = tell
        self._line = b""
        self._fd = os.dup(stream.fileno())  # type: ignore[attr-defined]
        stream.close()  # type: ignore[attr-defined]
        self._data = bytearray()
        self.ended = False
        self._changed = threading.Condition()
        threading.Thread(target=self._run, name="torchmar-check-pipe", daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                data = os.read(self._fd, 65536)
            except OSError:
                data = b""
            if self._tell is not None:
                self._tell_lines(data)
            with self._changed:
                self._data += data
                if len(self._data) > 2 * _KEPT:
                    del self._data[:-_KEPT]
                self.ended = not data
                self._changed.notify_all()
            if not data:
                os.close(self._fd)
                return

    def _tell_lines(self, data: bytes) -> None:
        *lines, self._line = (self._line + data).split(b"\n")
        if not data and self._line:
            lines.append(self._line)  # the last one, without an end
        for line in lines:
            if self._tell is not None:
                self._tell(line.decode("utf-8", "replace").rstrip("\r"))

    @property
    def text(self) -> str:
        with self._changed:
            return self._data.decode("utf-8", "replace")

    def wait(self, text: str, timeout: float) -> bool:
        """Wait until a text has arrived; return whether it has."""
        wanted = text.encode()
        with self._changed:
            self._changed.wait_for(lambda: wanted in self._data or self.ended, timeout)
            return wanted in self._data

    def wait_for_end(self, timeout: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.ended, timeout)

    def settle(self) -> None:
        """Wait until nothing has arrived for a moment: what was printed before an answer may still be on its way."""
        deadline = time.monotonic() + _SETTLE_S
        with self._changed:
            while not self.ended and time.monotonic() < deadline and self._changed.wait(_QUIET_S):
                pass


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def interpreter(runtime: str) -> str:
    """Return the Python that the frontend would take for a manifest's runtime."""
    return sys.executable if runtime == "python" else runtime
