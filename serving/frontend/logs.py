"""The log files of a server, in the names and forms of TorchServe's: ts_log.log, model_log.log, access_log.log.

They hold text, or JSON lines (`serving.control.following.forms`). `torchmar logs`, and what explains a failed start,
read them (`serving.control.following`). Lines are put together where
they arise, in the event loop, and written by one thread, since a disk may let one wait. What waits for it is bounded,
as is what one worker may print; what is left out is counted in the log.
"""

from __future__ import annotations

import contextlib
import gzip
import logging
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal, TextIO

from serving.control.configuration.settings import LOG_FORM
from serving.control.following import forms
from serving.frontend.settings import Settings

File = Literal["ts_log", "model_log", "access_log", "ts_metrics", "model_metrics"]

#: Bytes of a file before the next one is begun, and how many full ones are kept, packed: those of our log4j2.xml.
FILE_BYTES: Final = 100 * 1024 * 1024
FILES_KEPT: Final = 5
#: Characters of a worker's line, lines of a worker in a second, bytes that wait to be written.
LINE_CHARS: Final = 16 * 1024
LINES_PER_SECOND: Final = 5000
WAITING_BYTES: Final = 16 * 1024 * 1024

_LEVELS: Final = {"WARNING": "WARN", "CRITICAL": "FATAL"}
#: Loggers that have a file of their own.
_METRICS: Final[dict[str, File]] = {"TS_METRICS": "ts_metrics", "MODEL_METRICS": "model_metrics"}
#: What a console shows, too.
_SHOWN: Final = frozenset({"ts_log", "model_log", "access_log"})
_ENDING_S: Final = 10.0


def append(file: int, data: bytes, size: int) -> None:
    """Write at the end of a file, all or nothing.

    Args:
        file: its descriptor.
        data: to be written.
        size: of the file before.

    Raises:
        OSError: it cannot be written; no part of it is there.
    """
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(file, view) :]
    except OSError:
        with contextlib.suppress(OSError):
            os.ftruncate(file, size)  # the disk is full: no half line is left on it
        raise


class _RollingFile:
    """A file that is packed away when it is full; the packed ones are numbered from the oldest on, as log4j does."""

    def __init__(self, path: Path, limit: int, kept: int) -> None:
        self._path, self._limit, self._kept = path, limit, kept
        self._file: BinaryIO | None = None
        self._size = 0

    def write(self, data: bytes) -> None:
        if self._file is not None and self._size and self._size + len(data) > self._limit:
            self._roll()
        if self._file is None:
            self._file = self._path.open("ab", buffering=0)
            self._size = self._file.tell()
        try:
            append(self._file.fileno(), data, self._size)
        except OSError:
            self.close()
            raise
        self._size += len(data)

    def _roll(self) -> None:
        self.close()
        numbers = self._packed()
        full = self._path.with_name(f"{self._path.stem}.{max(numbers, default=0) + 1}.log")
        self._path.replace(full)
        packed = full.with_name(f"{full.name}.gz")
        part = Path(f"{packed}.part")
        try:
            with full.open("rb") as source, gzip.open(part, "wb", compresslevel=1) as target:
                shutil.copyfileobj(source, target, 1 << 20)
            part.replace(packed)
        except OSError:  # it stays as it is until the next one is full
            part.unlink(missing_ok=True)
            return
        full.unlink()
        for number in sorted(numbers)[: max(0, len(numbers) + 1 - self._kept)]:
            numbers[number].unlink(missing_ok=True)

    def _packed(self) -> dict[int, Path]:
        pattern = re.compile(rf"{re.escape(self._path.stem)}\.(\d+)\.log\.gz")
        found = ((pattern.fullmatch(path.name), path) for path in self._path.parent.iterdir())
        return {int(match[1]): path for match, path in found if match}

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


@dataclass
class _Second:
    """What a worker has printed in a second.

    Attributes:
        number: of the second, by the clock.
        lines: of it that were taken.
        dropped: that were not.
    """

    number: int = 0
    lines: int = 0
    dropped: int = 0


class LogFiles:
    """Writes the log files of a folder; each is there when something is in it.

    Args:
        folder: of the files; made if it is not there.
        console: shows the lines of all but the metrics, too; None for nowhere.
        file_bytes: of a file before the next one is begun.
        form: of the lines, but for those of metrics.
    """

    def __init__(
        self,
        folder: Path,
        console: TextIO | None = None,
        file_bytes: int = FILE_BYTES,
        form: forms.Form = forms.TEXT,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._console, self._file_bytes, self._form = folder, console, file_bytes, form
        self._files: dict[File, _RollingFile] = {}
        self._lock = threading.Lock()
        self._waiting: dict[File, list[str]] = {}
        self._waiting_bytes = 0
        self._dropped = 0
        self._there_is_some = threading.Event()
        self._ended = False
        self._seconds: dict[str, _Second] = {}
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def event(self, level: str, thread: str, source: str, text: str) -> None:
        """Log what happens in the frontend: ts_log.log."""
        self._put("ts_log", self._form.event(level, thread, source, text))

    def model_line(self, worker: str, pipe: str, text: str) -> None:
        """Log what a worker prints: model_log.log; see the function of this name."""
        now = int(time.monotonic())
        second = self._seconds.setdefault(worker, _Second())
        if second.number != now:
            if second.dropped:
                self._model_line(worker, pipe, f"({second.dropped} lines of this worker were left out)")
            second.number, second.lines, second.dropped = now, 0, 0
        # What a terminal, or a reader of the log, takes for the end of a line must not begin a line of another's.
        for line in text.splitlines() or ("",):
            second.lines += 1
            if second.lines > LINES_PER_SECOND:
                second.dropped += 1
            else:
                self._model_line(worker, pipe, forms.cut(line, LINE_CHARS))

    def _model_line(self, worker: str, pipe: str, text: str) -> None:
        self._put("model_log", self._form.printed(worker, pipe, text))

    def forget(self, worker: str) -> None:
        """Say what was left out of a worker's lines, if anything was, and keep nothing of it: it has ended."""
        second = self._seconds.pop(worker, None)
        if second is not None and second.dropped:
            self._model_line(worker, "stdout", f"({second.dropped} lines of this worker were left out)")

    def access(self, of: forms.Access) -> None:
        """Log who asked for what: access_log.log."""
        self._put("access_log", self._form.access(of))

    def metric(self, file: File, text: str) -> None:
        """Log a metric: a line that has its time alone, in TorchServe's grammar."""
        self._put(file, forms.whole(f"{forms.now()} - {text}"))

    def _put(self, file: File, event: str) -> None:
        line = f"{event}\n"
        with self._lock:
            if self._waiting_bytes > WAITING_BYTES:
                self._dropped += 1
                return
            self._waiting_bytes += len(line)
            lines = self._waiting.get(file)
            if lines is not None:  # the thread knows already
                lines.append(line)
                return
            self._waiting[file] = [line]
        self._there_is_some.set()

    def _write_all(self) -> None:
        complained: set[File] = set()
        while not (self._ended and not self._waiting):
            self._there_is_some.wait()
            self._there_is_some.clear()
            with self._lock:
                taken, self._waiting = self._waiting, {}
                dropped, self._dropped = self._dropped, 0
            size, missed = sum(len(line) for lines in taken.values() for line in lines), 0
            if dropped:
                text = f"{dropped} lines were left out: the disk was slow, or full"
                taken.setdefault("ts_log", []).append(f"{self._form.event('WARN', 'log', __name__, text)}\n")
            for file, lines in taken.items():
                try:
                    self._write(file, "".join(lines))
                    complained.discard(file)
                except OSError as error:
                    missed += len(lines)
                    if file not in complained:
                        complained.add(file)
                        with contextlib.suppress(OSError, ValueError):  # it may lie on the same disk
                            sys.stderr.write(f"the log {file}.log in {self._folder} cannot be written: {error}\n")
            with self._lock:  # only now is there room for more
                self._waiting_bytes -= size
                self._dropped += missed
        for one in self._files.values():
            one.close()

    def _write(self, file: File, text: str) -> None:
        if self._console is not None and file in _SHOWN:
            with contextlib.suppress(OSError, ValueError):  # nobody looks any more
                self._console.write(forms.visible(text) if self._console.isatty() else text)
                self._console.flush()
        if file not in self._files:
            self._files[file] = _RollingFile(self._folder / f"{file}.log", self._file_bytes, FILES_KEPT)
        self._files[file].write(text.encode("utf-8", "backslashreplace"))

    def close(self) -> None:
        """Write what waits, and end."""
        for worker in list(self._seconds):
            self.forget(worker)
        self._ended = True
        self._there_is_some.set()
        self._thread.join(_ENDING_S)


def of(settings: Settings, console: TextIO | None = None) -> LogFiles:
    """Make the log files of a server, in the form that its settings name."""
    form = forms.JSON if settings.text(LOG_FORM) == "json" else forms.TEXT
    return LogFiles(settings.place.logs, console, form=form)


class _Handler(logging.Handler):
    """Lets what the libraries and the modules here log go to ts_log.log."""

    def __init__(self, files: LogFiles) -> None:
        super().__init__()
        self._to = files
        self.setFormatter(logging.Formatter("%(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if file := _METRICS.get(record.name):
                self._to.metric(file, self.format(record))
                return
            level = _LEVELS.get(record.levelname, record.levelname)
            thread = "main" if record.threadName == "MainThread" else str(record.threadName)
            self._to.event(level, thread, record.name, self.format(record))
        except Exception:
            self.handleError(record)


_installed: LogFiles | None = None


@contextlib.contextmanager
def installed(files: LogFiles) -> Iterator[LogFiles]:
    """Meanwhile all that is logged in this process goes to these files; they are closed in the end."""
    global _installed
    handler, root = _Handler(files), logging.getLogger()
    # Requests that cannot be read are the clients' affair: uvicorn warns of each.
    levels = {"": logging.WARNING, "serving.frontend.server": logging.INFO, "uvicorn": logging.ERROR}
    levels |= dict.fromkeys(_METRICS, logging.INFO)
    before = {name: logging.getLogger(name).level for name in levels}
    for name, level in levels.items():
        logging.getLogger(name).setLevel(level)
    root.addHandler(handler)
    _installed = files
    try:
        yield files
    finally:
        _installed = None
        root.removeHandler(handler)
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
        files.close()


def model_line(worker: str, pipe: str, text: str) -> None:
    """Log what a worker prints.

    Args:
        worker: such as ``W-9000-mnist_1.0``.
        pipe: ``stdout`` or ``stderr``.
        text: a line, without its end.
    """
    if _installed is not None:
        _installed.model_line(worker, pipe, text)


def worker_ended(worker: str) -> None:
    """Keep nothing of a worker that has ended: its number is not used again."""
    if _installed is not None:
        _installed.forget(worker)
