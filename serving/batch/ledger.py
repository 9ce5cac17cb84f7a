"""What a job has written: answers and failures in the order of the rows, and how far that is certain.

While a job runs all of it is in a folder beside the target, ``FILE.partial``. A checkpoint says how many bytes of the
two files belong to how many rows. It is replaced only after these bytes are on the disk. Whatever was written after the
last checkpoint is cut off when the job goes on, and those rows are asked again: so none is lost, and none is there
twice.
"""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import shutil
import stat
import threading
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any, Final

from archive_tool import files, json_text
from archive_tool.errors import InputError, TargetExistsError
from serving.batch.scores import Scores
from serving.control.runtime_folder import remove_runtime_folder

#: Form of the answers, by the ending of the target.
FORMS: Final = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv"}
_COLUMNS: Final = ("source", "row", "status", "answer")
_AGAIN: Final = "--restart drops what was done, and begins anew"


class Ledger:
    """The results of a job; a context manager that no other job of the same target enters meanwhile.

    Args:
        target: where the answers will be.
        job: what the job is: it goes on only with the same.
        force: replace the target.
        restart: begin anew, whatever was done.

    Attributes:
        rows: that are written.
        failed: of them, without an answer.
        digest: of the identities of the rows, as of the checkpoint that the job goes on from.
        scores: of the answers.
        failures: where the failures will be, if there are any.
        finished: whether all was done before.

    Raises:
        InputError: another job writes there, or what was done is of another job.
        TargetExistsError: the target is there.
    """

    def __init__(self, target: Path, job: Mapping[str, Any], *, force: bool = False, restart: bool = False) -> None:
        if target.suffix.lower() not in FORMS:
            raise InputError(f"answers are written as {' or '.join(FORMS)}, not as {target.suffix or target.name!r}")
        self.target, self.failures = target, target.with_name(f"{target.name}.failures.jsonl")
        self.partial = target.with_name(f"{target.name}.partial")
        self._job, self._force, self._restart = dict(job), force, restart
        self._csv = FORMS[target.suffix.lower()] == "csv"
        self.rows = self.failed = 0
        self.digest = ""
        self.scores = Scores()
        self.finished = False
        self._stack = ExitStack()
        self._lock = threading.Lock()
        self._certain = -1
        self._sizes = {"answers": 0, "failures": 0}

    def __enter__(self) -> Ledger:
        try:
            self._enter()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if not self.rows:
            shutil.rmtree(self.partial, ignore_errors=True)
        self._stack.close()

    def _enter(self) -> None:
        self._take_folder()
        found = None if self._restart else self._read()
        if found is not None:
            self._sizes = self._restore(found)
        if self.finished and not (self.partial / "answers").exists() and (self._force or not self.target.exists()):
            # All of that job was moved, and this is a new one.
            self.rows, self.failed, self.scores, self.finished = 0, 0, Scores(), False
            found, self._sizes = None, dict.fromkeys(self._sizes, 0)
        if self.target.exists() and not self._force and not self.finished:
            if found is None:
                shutil.rmtree(self.partial, ignore_errors=True)
            raise TargetExistsError(f"{self.target} exists already", hint="--force replaces it")
        if self.finished:
            self._put()
            return
        self._answers = self._open("answers")
        self._failures = self._open("failures")
        if self._csv and not self._sizes["answers"]:
            self._write(self._answers, "answers", _csv_line(_COLUMNS))
        if found is None:
            self.checkpoint("")

    def _take_folder(self) -> None:
        try:
            self.partial.mkdir()
        except FileExistsError:
            # In a folder of many users, as /tmp is, links of another one in it would lead what is written elsewhere.
            status = self.partial.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
                raise InputError(
                    f"{self.partial} is there, and is no folder of yours", hint="remove it, or choose another --output"
                ) from None
        lock = self._stack.enter_context((self.partial / "lock").open("wb"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another job writes {self.target}", hint="choose another --output") from None

    def _open(self, name: str) -> IO[bytes]:
        path, size = self.partial / name, self._sizes[name]
        path.touch()
        if path.stat().st_size < size:
            raise InputError(f"{path} is shorter than its job has left it", hint=_AGAIN)
        stream = self._stack.enter_context(path.open("r+b"))
        stream.truncate(size)
        stream.seek(size)
        return stream

    # ---- checkpoints -----------------------------------------------------------------------------------------------

    def _read(self) -> dict[str, Any] | None:
        """Read the checkpoint; None if there is none: the job was cut before its first row."""
        path = self.partial / "checkpoint.json"
        try:
            found = json_text.loads(files.read_regular(path))
        except FileNotFoundError:
            return None
        except (OSError, json_text.NotJsonError) as error:
            raise InputError(f"the checkpoint cannot be read: {error}", where=str(path), hint=_AGAIN) from error
        if not isinstance(found, dict) or not isinstance(found.get("job"), dict):
            raise InputError("the checkpoint is none", where=str(path), hint=_AGAIN)
        return found

    def _restore(self, found: dict[str, Any]) -> dict[str, int]:
        other = [key for key in self._job if found["job"].get(key) != self._job[key]]
        if other:
            raise InputError(
                f"{self.partial} has the begin of another job: {', '.join(other)} "
                f"{'is' if len(other) == 1 else 'are'} not the same",
                hint=f"{_AGAIN}; or choose another --output",
            )
        try:
            self.rows, self.failed = int(found["rows"]), int(found["failed"])
            self.digest, self.finished = str(found["digest"]), bool(found["finished"])
            self.scores = Scores.restored(found["scores"])
            return {name: int(found["sizes"][name]) for name in ("answers", "failures")}
        except (KeyError, TypeError, ValueError) as error:
            raise InputError("the checkpoint is none", where=str(self.partial), hint=_AGAIN) from error

    def checkpoint(self, digest: str, *, finished: bool = False) -> None:
        """Make certain what is written; waits for the disk.

        Args:
            digest: of the identities of all rows that are written.
            finished: whether these are all.
        """
        with self._lock:
            if self._certain == self.rows and not finished:
                return
            for stream in (self._answers, self._failures):
                stream.flush()
                os.fsync(stream.fileno())
            document = {
                "job": self._job,
                "rows": self.rows,
                "failed": self.failed,
                "digest": digest,
                "finished": finished,
                "scores": self.scores.state,
                "sizes": self._sizes,
            }
            temporary = self.partial / "checkpoint.new"
            with temporary.open("wb") as stream:
                stream.write(json.dumps(document).encode())
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(self.partial / "checkpoint.json")
            _sync_folder(self.partial)
            self._certain = self.rows

    def finish(self, digest: str) -> None:
        """Put the results in their places: there they are whole."""
        self.checkpoint(digest, finished=True)
        self._put()

    def _put(self) -> None:
        """Move what is finished; what a kill has kept from being moved, too."""
        answers, failures = self.partial / "answers", self.partial / "failures"
        if answers.exists():  # the last that is moved
            if self.failed and failures.exists():
                failures.replace(self.failures)
            elif not self.failed:
                self.failures.unlink(missing_ok=True)  # of an earlier job
            answers.replace(self.target)
            _sync_folder(self.target.absolute().parent)
        shutil.rmtree(self.partial, ignore_errors=True)
        self.finished = True

    # ---- rows ------------------------------------------------------------------------------------------------------

    def answered(self, source: str, number: int | None, status: int, answer: dict[str, Any]) -> None:
        """Write an answer: ``answer``, or ``answer_base64`` where it is binary."""
        with self._lock:
            if self._csv:
                (value,) = answer.values()
                text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
                line = _csv_line((source, "" if number is None else number, status, text))
            else:
                line = _json_line({"source": source, "row": number, "status": status, **answer})
            self._write(self._answers, "answers", line)
            self.rows += 1

    def failure(self, source: str, number: int | None, status: int | None, error: str, sent: Any) -> None:
        """Write a failure.

        Args:
            status: of the answer; None for a row that was not sent.
            sent: the input, as far as it is shown.
        """
        with self._lock:
            line = _json_line({"source": source, "row": number, "status": status, "error": error, "input": sent})
            self._write(self._failures, "failures", line)
            self.rows += 1
            self.failed += 1

    def _write(self, stream: IO[bytes], name: str, line: bytes) -> None:
        stream.write(line)
        self._sizes[name] += len(line)  # of a line that a full disk has cut nothing counts

    # ---- what a kill leaves ----------------------------------------------------------------------------------------

    def uses(self, folder: Path) -> None:
        """Note a folder that goes with this job, and remove the one of a job that was killed."""
        note = self.partial / "runtime"
        with suppress(OSError, UnicodeDecodeError):
            remove_runtime_folder(Path(files.read_text(note)))
        note.write_text(str(folder), encoding="utf-8")


def _json_line(document: Mapping[str, Any]) -> bytes:
    return json_text.dumps(document) + b"\n"


def _csv_line(cells: tuple[Any, ...]) -> bytes:
    text = io.StringIO()
    # Only what is in the end of a line is put in quotation marks, and readers take a carriage return alone for one.
    csv.writer(text, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n").encode("utf-8", "backslashreplace") + b"\n"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
