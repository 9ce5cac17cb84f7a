"""A server's logs: everything, what one model's workers printed, or what belongs to one request or error.

They are log4j's (``log4j2.xml``): one event a line, ``time [LEVEL] thread class - text``; further parts of an event,
such as Java's stack traces, follow in lines without a time. What a worker prints is one event a line, under the name
of the thread that reads its pipe. The Python frontend writes the same, or JSON lines (`forms`), shown as text.
"""

from __future__ import annotations

import gzip
import heapq
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.control.following.diagnosis import CHAINED_WITHIN, MODEL_LINE, belongs_to, end_of_tracebacks
from serving.control.following.forms import as_text

FILES = ("ts_log.log", "model_log.log")
#: Beside these, what leads to the logs of Ray Serve on this machine: each replica has one, of its own form.
RAY = "ray"
_REPLICA = re.compile(r"replica_(?P<name>.+?)--(?P<version>.+)_model_(?P<id>[0-9a-z]+)\.log")
_RAYS_LINE = re.compile(r"[A-Z]+ (?P<day>\S+) (?P<time>\S+) .*?-- (?P<text>.*)")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d,\d{3} ")
_TIME_LENGTH = 23
_POLL_S = 0.2
_FURTHER = 200  # lines of a worker that are looked through for the end of a traceback


@dataclass(frozen=True)
class Event:
    """One event of a log.

    Attributes:
        text: its lines, as they are in the file, or as they would be if that held text.
        worker: the thread's name without its pipe; empty unless a worker printed it.
        pipe: ``stdout`` or ``stderr``.
        printed: what the worker printed.
    """

    text: str
    worker: str = ""
    pipe: str = ""
    printed: str = ""

    @classmethod
    def of(cls, text: str) -> Event:
        """Parse an event."""
        found = MODEL_LINE.match(text)
        return cls(text, found["worker"], found["pipe"], found["text"]) if found else cls(text)

    @property
    def time(self) -> str:
        """When it was logged; sorts as text. Empty for lines before the first that has a time."""
        return self.text[:_TIME_LENGTH] if _TIME.match(self.text) else ""


def read(folder: Path, model: str | None = None, marked: str | None = None) -> list[Event]:
    """Return the events that the logs hold, in the order of their times.

    Args:
        folder: of the logs.
        model: only what its workers printed.
        marked: only what has this in it, with the traceback under it: an error's id, or a request's.
    """
    logs = [_events(_lines(folder, name), _worker_of(name)) for name in _files(model, folder)]
    found = list(_printed_by(model, heapq.merge(*logs, key=lambda one: one.time)))
    return found if marked is None else _Marked(marked).of(found)


def follow(
    folder: Path, running: Callable[[], bool], model: str | None = None, last: int | None = None
) -> Iterator[Event]:
    """Yield the events that the logs hold, but for packed files, and all that come until the server ends.

    Args:
        running: whether it still runs.
        last: yield only this many of the events that are there already.
    """
    following = Following(folder, model)
    while True:
        more = running()  # asked first, so that the last lines are still read
        yield from newest(following.events(), last)
        last = None
        if not more:
            return
        time.sleep(_POLL_S)


class Following:
    """What comes to the logs of a folder, but for packed files.

    Args:
        folder: of the logs.
        model: only what its workers print.
        marked: only what has this in it, with the traceback under it: an error's id, or a request's; empty for all.
        most: bytes of a file that are read at once, the last ones; None for all.
    """

    def __init__(self, folder: Path, model: str | None = None, marked: str = "", most: int | None = None) -> None:
        self._model, self._marked = model, _Marked(marked) if marked else None
        self._tails = [Tail(folder / name, most) for name in _files(model, folder)]

    def events(self) -> list[Event]:
        """Return what has come since the last time, in the order of the times; waits for the disk."""
        found = sorted((one for tail in self._tails for one in tail.events()), key=lambda one: one.time)
        printed = _printed_by(self._model, found)
        return list(printed) if self._marked is None else self._marked.of(printed)


def newest(events: list[Event], count: int | None) -> list[Event]:
    """Return the last so many events; all of them without a number."""
    return events if count is None else events[max(0, len(events) - count) :]


def models(folder: Path) -> list[str]:
    """Return the workers that printed something, as ``model_version``."""
    files = _files("", folder)
    workers = {
        event.worker for name in files for event in _events(_lines(folder, name), _worker_of(name)) if event.worker
    }
    return sorted({worker.split("-", 2)[2] for worker in workers})


def _files(model: str | None, folder: Path) -> Sequence[str]:
    """Return the logs, by their paths in their folder; those of what workers print where only a model's are wanted."""
    replicas = [f"{RAY}/{path.name}" for path in sorted((folder / RAY).glob("replica_*.log"))]
    return [*(FILES if model is None else ("model_log.log",)), *filter(_worker_of, replicas)]


def _worker_of(name: str) -> str:
    """Return how the worker of a replica is called, of whose log this is the path; empty for any other log."""
    found = _REPLICA.fullmatch(name.removeprefix(f"{RAY}/"))
    if found is None:
        return ""
    # Of several replicas each is a worker of its own.
    return f"W-{int(found['id'], 36) % 1_000_000}-{found['name']}_{found['version']}"


def _as_ours(line: str, worker: str) -> str:
    """Return a line as it is in our own logs."""
    found = _RAYS_LINE.fullmatch(line) if worker else None
    if found is None:
        return as_text(line)
    return f"{found['day']}T{found['time']} [INFO ] {worker}-stdout MODEL_LOG - {found['text']}"


def _printed_by(model: str | None, events: Iterable[Event]) -> Iterator[Event]:
    """Yield the events of a model's workers; all of them without a model."""
    return (event for event in events if model is None or belongs_to(event.worker, model))


def _lines(folder: Path, name: str) -> Iterator[str]:
    """Yield all lines of a log, packed files first; log4j numbers these from the oldest on."""
    packed = sorted(folder.glob(f"{name.removesuffix('.log')}.*.log.gz"), key=lambda path: _number(path.name))
    # A carriage return is a part of a line, as in a file that is followed.
    for path in packed:
        try:
            with gzip.open(path, "rt", encoding="utf-8", errors="replace", newline="\n") as stream:
                yield from stream
        except (OSError, EOFError):
            continue  # it is just being packed, or removed
    try:
        with (folder / name).open(encoding="utf-8", errors="replace", newline="\n") as stream:
            yield from stream
    except FileNotFoundError:
        return


def _number(name: str) -> int:
    digits = name.split(".")[-3]
    return int(digits) if digits.isdecimal() else 0


def _events(lines: Iterable[str], worker: str = "") -> Iterator[Event]:
    held: list[str] = []
    for line in lines:
        text = _as_ours(line.rstrip("\n"), worker)
        if held and _TIME.match(text):
            yield Event.of("\n".join(held))
            held = []
        held.append(text)
    if held:
        yield Event.of("\n".join(held))


class _Marked:
    """Finds what has a mark in it, with the traceback under it, in events that come.

    Args:
        marked: the mark, such as an error's id, or a request's.
    """

    def __init__(self, marked: str) -> None:
        self._marked, self._count = marked, 0
        # By worker and pipe, for other workers print meanwhile: what follows a marked event, and how much is found.
        self._under: dict[tuple[str, str], tuple[int, list[tuple[int, Event]], int]] = {}

    def of(self, events: Iterable[Event]) -> list[Event]:
        """Return those that are wanted of the next events, and what is now known to be of those before."""
        found: list[tuple[int, Event]] = []
        for event in events:
            self._count += 1
            if self._is_under(event, found):
                continue
            if self._marked in event.text:
                found.append((self._count, event))
                if event.worker:
                    self._under[event.worker, event.pipe] = self._count, [], 0
        return [event for _, event in sorted(found, key=lambda one: one[0])]

    def _is_under(self, event: Event, found: list[tuple[int, Event]]) -> bool:
        """Add an event to what is found where it is, and what lies between is, of the traceback under a marked one."""
        key = event.worker, event.pipe
        if key not in self._under:
            return False
        begun, lines, given = self._under[key]
        lines.append((self._count, event))
        count = end_of_tracebacks([one.printed for _, one in lines])
        found += lines[given:count]
        self._under[key] = begun, lines, count
        # A traceback that this one is chained to would have begun by now.
        over = not count or len(lines) >= count + CHAINED_WITHIN
        if over or len(lines) >= _FURTHER or self._count - begun > 50 * _FURTHER:
            del self._under[key]
        return count == len(lines)


class Tail:
    """The growth of a file; one that was replaced, by a new start or a full file, is read from its beginning.

    Args:
        path: of the file.
        most: bytes that are read at once, the last ones; None for all.
    """

    def __init__(self, path: Path, most: int | None = None) -> None:
        self._path, self._most = path, most
        self._worker = _worker_of(path.name)
        self._identity, self._offset, self._rest = 0, 0, b""

    def _now(self) -> tuple[int, int]:
        try:
            found = self._path.stat()
        except FileNotFoundError:
            return 0, 0
        return found.st_ino, found.st_size

    def events(self) -> Iterator[Event]:
        """Yield what has come since the last time."""
        identity, size = self._now()
        if identity != self._identity or size < self._offset:
            self._identity, self._offset, self._rest = identity, 0, b""
        if self._most is not None and size - self._offset > self._most:
            self._offset, self._rest = size - self._most, b""
        try:
            with self._path.open("rb") as file:
                file.seek(self._offset)
                data = file.read(-1 if self._most is None else self._most)
        except FileNotFoundError:
            return
        self._offset += len(data)
        whole, newline, self._rest = (self._rest + data).rpartition(b"\n")
        if newline:
            yield from _events(whole.decode("utf-8", "replace").split("\n"), self._worker)
