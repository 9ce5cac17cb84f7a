"""Standard output and error of a process that serves workers: the pipes that the frontend reads the log from."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import stat
import sys
import threading
import time

_READ_POLL_S = 0.02


class Output:
    """The pipes of the workers that this process serves; the log goes through the first that is still read.

    A dedicated process has those of one worker, and when the frontend closes them its end is near. A shared process
    lives on: then those of another worker take over, at the next write at the latest.
    """

    def __init__(self) -> None:
        self._pipes: list[tuple[int, int]] = []
        self._lock = threading.RLock()

    def add(self, stdout: int, stderr: int) -> None:
        """Take over the pipes of a worker."""
        with self._lock:
            self._pipes.append((stdout, stderr))
            if len(self._pipes) == 1:
                self._use_first()

    def remove(self, stdout: int) -> None:
        """Forget the pipes of a worker that has gone, and close them."""
        with self._lock:
            for index, pipes in enumerate(self._pipes):
                if pipes[0] == stdout:
                    del self._pipes[index]
                    for fd in pipes:
                        os.close(fd)
                    if index == 0:
                        self._use_first()
                    return

    def install(self) -> None:
        """Make `sys.stdout` and `sys.stderr` write here, a line at a time, and `logging` to `sys.stdout`.

        As TorchServe's worker has it: the text of the message alone, from level INFO.
        """
        sys.stdout = _text(_Pipe(self, 1))
        sys.stderr = _text(_Pipe(self, 2))
        root = logging.getLogger()
        for handler in root.handlers[:]:
            root.removeHandler(handler)
        logging.basicConfig(stream=sys.stdout, format="%(message)s", level=logging.INFO)

    def write(self, fd: int, data: bytes) -> None:
        """Write all of it, or drop it if nothing reads it any more."""
        view = memoryview(data)
        others = len(self._pipes) - 1
        while view:
            try:
                view = view[os.write(fd, view) :]
            except BrokenPipeError:
                if others <= 0 or not self._fail_over():
                    return
                others -= 1
            except OSError:
                return

    def _use_first(self) -> None:
        if self._pipes:
            for number, fd in zip((1, 2), self._pipes[0], strict=True):
                os.dup2(fd, number)

    def _fail_over(self) -> bool:
        """Fail over from a worker that has gone to the next one's pipes. False if there is none."""
        with self._lock:
            if len(self._pipes) < 2:
                return False
            self._pipes.append(self._pipes.pop(0))  # its end will be reported, too; remove closes them then
            self._use_first()
            return True


class _Pipe(io.RawIOBase):
    def __init__(self, output: Output, fd: int) -> None:
        self._output = output
        self._fd = fd

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def write(self, data: object) -> int:
        content = bytes(data)  # type: ignore[call-overload]
        self._output.write(self._fd, content)
        return len(content)


def _text(pipe: io.RawIOBase) -> io.TextIOWrapper:
    # The frontend reads UTF-8, line by line.
    buffered = io.BufferedWriter(pipe)
    return io.TextIOWrapper(buffered, encoding="utf-8", errors="backslashreplace", line_buffering=True)


def say(text: str) -> None:
    """Write to the model's log now."""
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.write(text if text.endswith("\n") else text + "\n")
        sys.stdout.flush()


def wait_until_read(limit_s: float) -> None:
    """Wait until the frontend has read all that was written: when it gives up a worker it reads no further."""
    deadline = time.monotonic() + limit_s
    # Elsewhere the writing end does not know.
    with contextlib.suppress(OSError, ImportError):
        while any(_unread(fd) for fd in (1, 2)) and time.monotonic() < deadline:
            time.sleep(_READ_POLL_S)
    time.sleep(_READ_POLL_S)


def _unread(fd: int) -> int:
    """Return the number of unread bytes in a pipe."""
    import fcntl
    import termios

    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        return 0
    return int.from_bytes(fcntl.ioctl(fd, termios.FIONREAD, b"\0" * 4), sys.byteorder)
