"""The reason of a failed model load, from the frontend's logs.

The frontend itself only says "Worker died." What the worker prints goes to model_log.log line by line, each line
under the name of the thread that reads the worker's pipe, ``W-<number>-<model>_<version>-stdout``. TorchServe's worker
prints a traceback. Ours does, too, and sums it up after it; the blank line says that this is all of it::

    Traceback (most recent call last):
      ...
    Failed to load model net: FileNotFoundError: no such file: labels.txt
      in net_handler.py:12 (initialize)
      hint: add it with --extra-files

"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from serving.control.following.forms import lines_of
from serving.errors import ModelLoadError

#: A line that a worker printed, in model_log.log.
MODEL_LINE = re.compile(r"^\S+ \[\w+ *\] (?P<worker>W-\d+-.+)-(?P<pipe>stdout|stderr) MODEL_LOG - ?(?P<text>.*)$")
_FAILED = re.compile(r"Load model failed: (?P<model>[^,]+), error: (?P<told>.*)$")
# What the frontend says, or repeats from TorchServe's worker, whatever the reason was.
_TELLS_NOTHING = ("", "Worker died.", "Unknown exception")
# Our worker's answer to the frontend: the cause, then in brackets where it was.
_TOLD = re.compile(r"(?P<cause>.+?)(?: \((?P<file>[^\s()]+):(?P<line>\d+)\))?$")
# An exception group's, which is of another form.
_GROUP = "Exception Group Traceback (most recent call last):"
# Under the first line of our worker's summary.
_WHERE = re.compile(r"^  in (?P<file>.+?)(?::(?P<line>\d+))?(?: \((?P<function>[^()]*)\))?$")
_HINT = "  hint: "
# How a worker, TorchServe's or ours, introduces the traceback of a failed load.
_MARKERS = ("Backend worker process died.", "Failed to load model ", "Load model ")
# What every worker, TorchServe's or ours, prints before it loads its model.
_BANNER = re.compile(
    r"s_name_part0=|Listening on |Successfully loaded .*metrics|\[PID\]|Torch worker started\.|Python runtime: "
    r"|Connection accepted: |model_name: "
)
_FRAME = re.compile(r'^\s+File "(?P<file>.+?)", line (?P<line>\d+)')
_TRACEBACK = "Traceback (most recent call last):"
_CHAIN = ("During handling of the above exception", "The above exception was the direct cause")
#: Lines behind a traceback among which the one that it is chained to begins.
CHAINED_WITHIN = 4
# An extracted archive: <runtime folder>/models/<32 hex digits>/
_EXTRACTED = re.compile(r"^.*/models/[0-9a-f]{32}/")


@dataclass(frozen=True)
class LoadFailure:
    """Why a model could not be loaded.

    Attributes:
        cause: ``Type: message`` of the first exception; or what else is known if there is no traceback.
        file: file inside the archive where it happened (or a path outside), None if unknown.
        line: line in that file.
        traceback: of the first exception; empty if none was found.
        hint: the worker's own; empty if it gave none.
    """

    model: str
    cause: str
    file: str | None = None
    line: int | None = None
    traceback: str = ""
    hint: str = ""

    def error(self, log_folder: Path) -> ModelLoadError:
        """Return the exception to raise."""
        where = f"{self.file}:{self.line}" if self.file and self.line else self.file
        hint = self.hint or hint_for(self.cause)
        more = f"the whole log: {log_folder / 'model_log.log'}"
        return ModelLoadError(
            f"model {self.model} cannot be loaded: {self.cause}",
            model=self.model,
            traceback=self.traceback,
            where=where,
            hint=f"{hint}; {more}" if hint else more,
        )


def belongs_to(worker: str, model: str) -> bool:
    """Return whether a worker, by the name of its thread without the pipe, is one of a model."""
    return re.fullmatch(rf"W-\d+-{re.escape(model)}_[^_]*", worker) is not None


def end_of_tracebacks(lines: Sequence[str]) -> int:
    """Count the lines of a traceback and those it is chained to; 0 if the first line begins none."""
    end = 0
    while end < len(lines) and lines[end] == _TRACEBACK:
        last = _end_of_traceback(lines, end)
        if last is None:
            return len(lines)
        end = _end_of_message(lines, last)
        follows = next((i for i in range(end, min(end + CHAINED_WITHIN, len(lines))) if lines[i] == _TRACEBACK), None)
        if follows is None or not any(line.startswith(_CHAIN) for line in lines[end:follows]):
            return end
        end = follows
    return end


def hint_for(cause: str) -> str:
    """Return what usually helps, by the kind of the exception."""
    kind, _, message = cause.partition(": ")
    if kind in ("ModuleNotFoundError", "ImportError"):
        found = re.search(r"No module named '([^'.]+)", message)
        if found:
            return (
                f"is {found[1]} installed where the server runs (pip install), or a file of the archive "
                "(--extra-files)? A requirements file (-r) is installed when install_py_dep_per_model=true"
            )
    if kind in ("SyntaxError", "IndentationError", "TabError"):
        return "correct the file and build the archive again"
    if kind in ("MemoryError", "OutOfMemoryError", "torch.OutOfMemoryError"):
        return "fewer workers, or a machine with more memory"
    return ""


@dataclass
class LogWatch:
    """A reader of what the logs gain from the moment it was made.

    Args:
        folder: of ts_log.log and model_log.log.
        from_begin: read what they hold already, too.
        most: then no more than the last so many bytes of each; None for all.
    """

    folder: Path
    from_begin: bool = False
    most: int | None = None
    _offsets: dict[str, int] = field(default_factory=dict)
    _workers: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    # By worker and pipe: the lines of the two come in any order, and must not break each other's tracebacks.
    _pipes: dict[tuple[str, str], list[str]] = field(default_factory=lambda: defaultdict(list))
    _failed: Counter[str] = field(default_factory=Counter)
    _told: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("ts_log.log", "model_log.log"):
            path = self.folder / name
            size = path.stat().st_size if path.exists() else 0
            read = 0 if not self.from_begin else size if self.most is None else min(size, self.most)
            self._offsets[name] = size - read

    def poll(self) -> None:
        """Take in the new lines."""
        for line in self._new_lines("model_log.log"):
            if found := MODEL_LINE.match(line):
                self._workers[found["worker"]].append(found["text"])
                self._pipes[found["worker"], found["pipe"]].append(found["text"])
        for line in self._new_lines("ts_log.log"):
            if found := _FAILED.search(line):
                self._failed[found["model"]] += 1
                if found["told"].strip() not in _TELLS_NOTHING:
                    self._told[found["model"]] = found["told"].strip()

    def _new_lines(self, name: str) -> list[str]:
        path = self.folder / name
        if not path.exists():
            return []
        with path.open("rb") as file:
            file.seek(self._offsets[name])
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]  # the last line may still be in the writing
        self._offsets[name] += len(whole)
        return lines_of(whole.decode("utf-8", "replace"))

    def times_failed(self, model: str) -> int:
        """Return how often the frontend reported that a worker of the model failed to load it."""
        return self._failed[model]

    def lines_of(self, model: str) -> list[str]:
        """Return what the model's workers printed."""
        return [text for worker in self._workers_of(model) for text in self._workers[worker]]

    def _workers_of(self, model: str) -> list[str]:
        return [worker for worker in self._workers if belongs_to(worker, model)]

    def failure(self, model: str) -> LoadFailure | None:
        """Return the failure of a model with its traceback; None if nothing failed or no traceback has arrived."""
        for worker in self._workers_of(model):
            for pipe in ("stdout", "stderr"):
                if found := read_failure(model, self._pipes[worker, pipe]):
                    return found
        return None

    def bare_failure(self, model: str) -> LoadFailure:
        """Return a failure without a traceback: the worker's summary, its answer to the frontend, or its last lines."""
        for worker in self._workers_of(model):
            if found := _read_summary(model, self._pipes[worker, "stdout"]):
                return found[0]
        if told := _TOLD.match(self._told.get(model, "")):
            return LoadFailure(model, told["cause"], told["file"], _number(told["line"]))
        last = [line for line in self.lines_of(model) if line.strip() and not _BANNER.match(line)][-6:]
        reason = "its worker ended without an error (killed, out of memory, sys.exit, or a crash of native code?)"
        return LoadFailure(model, reason + (f"; its last lines: {' | '.join(last)}" if last else ""))


def read_failure(model: str, lines: Sequence[str]) -> LoadFailure | None:
    """Find the first cause in what one worker printed to one pipe.

    Our worker's summary holds; the traceback above it adds the further lines of the message. Without a summary the
    first traceback after the worker's announcement is the original exception: Python prints the cause of a
    chain before what followed from it. (TorchServe's loader answers an ImportError inside a handler with a second
    one about a built-in handler; that second one must not hide the first.)

    Returns:
        None if there is no complete traceback, or no complete summary under it.
    """
    if found := _read_summary(model, lines):
        summary, start, end = found
        if end == len(lines):
            return None  # its other lines may be on their way
        begin = _begin_of_chain(lines, start)
        failure = None if begin is None else read_traceback(model, lines[:start], begin)
        return _summed_up(failure, summary) if failure else summary
    marker = next((i for i, line in enumerate(lines) if line.startswith(_MARKERS)), None)
    return None if marker is None else read_traceback(model, lines, marker)


def _begin_of_chain(lines: Sequence[str], end: int) -> int | None:
    """Return the index of the first traceback of the chain that ends in front of a line; None if there is none."""
    begin = None
    for index in range(end - 1, -1, -1):
        if _GROUP in lines[index]:
            return None
        if lines[index] == _TRACEBACK:
            begin = index
            above = [line for line in lines[max(0, index - 2) : index] if line.strip()]
            if not (above and above[-1].startswith(_CHAIN)):
                break
    return begin


def _read_summary(model: str, lines: Sequence[str]) -> tuple[LoadFailure, int, int] | None:
    """Read our worker's summary; return it, its first line's index, and the index after it; None if there is none."""
    title = f"Failed to load model {model}: "
    start = next((i for i, line in enumerate(lines) if line.startswith(title)), None)
    if start is None:
        return None
    failure, index = LoadFailure(model, lines[start].removeprefix(title)), start + 1
    if index < len(lines) and (where := _WHERE.match(lines[index])):
        file = _EXTRACTED.sub("", where["file"])
        failure, index = replace(failure, file=file, line=_number(where["line"])), index + 1
    if index < len(lines) and lines[index].startswith(_HINT):
        failure, index = replace(failure, hint=lines[index].removeprefix(_HINT)), index + 1
    return failure, start, index


def _summed_up(failure: LoadFailure, summary: LoadFailure) -> LoadFailure:
    """Join a traceback and its summary, which has only one line of the message."""
    first, *more = failure.cause.splitlines()
    more = [line for line in more if line != f"Hint: {summary.hint}"]  # the text of an error of the SDK ends with it
    cause = "\n".join([summary.cause, *more]) if first.endswith(summary.cause) else summary.cause
    return replace(summary, cause=cause, traceback=failure.traceback)


def _number(text: str | None) -> int | None:
    return int(text) if text else None


def read_traceback(model: str, lines: Sequence[str], start: int) -> LoadFailure | None:
    """Read the first traceback from a line on as a failure of the model; None if there is none, or it is incomplete."""
    begin = next((i for i in range(start, len(lines)) if lines[i] == _TRACEBACK), None)
    if begin is None:
        return None
    end = _end_of_traceback(lines, begin)
    if end is None:
        return None
    message_end = _end_of_message(lines, end)
    frames = [found for line in lines[begin:end] if (found := _FRAME.match(line))]
    file, number = _location(frames)
    # Frames that lead into the archive's own files are the server's business.
    shown = next((i for i in range(begin, end) if _EXTRACTED_PATH.search(lines[i])), begin + 1)
    return LoadFailure(
        model=model,
        cause="\n".join(lines[end:message_end]),
        file=file,
        line=number,
        traceback="\n".join(_EXTRACTED_PATH.sub(r"\1", line) for line in (_TRACEBACK, *lines[shown:message_end])),
    )


_EXTRACTED_PATH = re.compile(r'(File ")[^"]*/models/[0-9a-f]{32}/')


def _end_of_traceback(lines: Sequence[str], begin: int) -> int | None:
    """Return the index of the line ``Type: message``: the first one that is not indented."""
    for index in range(begin + 1, len(lines)):
        if lines[index] and not lines[index].startswith(" "):
            return index
    return None


def _end_of_message(lines: Sequence[str], end: int) -> int:
    """Return where a message ends: at a blank line or at a line that cannot belong to it."""
    stops = (*_MARKERS, *_CHAIN, _TRACEBACK)
    for index in range(end + 1, min(len(lines), end + 40)):
        if not lines[index].strip() or lines[index].startswith(stops) or _BANNER.match(lines[index]):
            return index
    return min(len(lines), end + 40)


def _location(frames: Iterable[re.Match[str]]) -> tuple[str | None, int | None]:
    """Return the innermost frame inside the archive's own files, or else the innermost one."""
    found: tuple[str | None, int | None] = (None, None)
    inside = False
    for frame in frames:
        path = frame["file"]
        own = bool(_EXTRACTED.match(path)) and "/handlers/" not in _EXTRACTED.sub("/", path)
        if own or not inside:
            found = (_EXTRACTED.sub("", path), int(frame["line"]))
            inside = own or inside
    return found
