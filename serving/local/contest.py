"""Comparison of ways to run a model with the plain one: each in a process of its own, turn by turn with it.

Other work on the machine slows down the process that runs just then. So the two take turns, and what counts is by how
much one was faster than the other in the same round.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from archive_tool.errors import TorchmarError
from archive_tool.exit_codes import how_it_ended
from serving.errors import CheckError
from serving.worker.scripts.collector import memory_of

_SCRIPT: Final = Path(__file__).with_name("trial.py")
_LEAVE_S: Final = 2.0
_SHOWN: Final = 600
#: In the median of the rounds a candidate has to be faster by this part, and in every round faster at all.
MARGIN: Final = 0.05
#: Fewer rounds prove nothing.
LEAST_ROUNDS: Final = 3
#: A candidate below this part of the plain model's speed at one of the two batch sizes is not recommended.
_NOT_SLOWER: Final = 0.95


class TrialError(Exception):
    """The process of a trial failed, ended, or took too long; the message says which."""


class Budget:
    """The time that all trials share.

    Args:
        seconds: from now on.
    """

    def __init__(self, seconds: float = math.inf) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds left; below 0 when it is over."""
        return self._end - time.monotonic()


class Process:
    """The process of a trial; a context manager that leaves nothing of it behind.

    Args:
        scratch: an existing folder for what it and its compilers write.
        timeout: seconds for each answer.
        budget: of all trials; no answer is awaited beyond it.
    """

    def __init__(self, scratch: Path, timeout: float, budget: Budget | None = None) -> None:
        self._timeout = timeout
        self._budget = budget or Budget()
        self._log = scratch / "log.txt"
        cache = scratch / "compiled"
        ours, theirs = socket.socketpair()
        with theirs, self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(_SCRIPT), str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, "TMPDIR": str(scratch), "TORCHINDUCTOR_CACHE_DIR": str(cache)},
                start_new_session=True,  # Ctrl-C is for us; and its compilers can be ended with it
            )
        self._sock = ours
        self._stream = ours.makefile("rw", encoding="utf-8")

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            with contextlib.suppress(OSError):
                self._stream.close()
            self._sock.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_LEAVE_S)
        finally:
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    @property
    def pid(self) -> int:
        """Process id of the trial."""
        return self._process.pid

    @property
    def memory(self) -> int:
        """Return its memory in bytes, shared pages counted in part; 0 if that is unknown."""
        return memory_of(self.pid)

    def ask(self, do: str, **values: Any) -> dict[str, Any]:
        """Ask a question of `serving.local.trial` and wait for the answer.

        Raises:
            TrialError: there is no answer, or it is an error.
        """
        left = self._budget.left
        if left <= 0:
            raise TrialError(_over(self._budget))
        self._sock.settimeout(min(self._timeout, left))
        try:
            self._stream.write(json.dumps({"do": do, **values}) + "\n")
            self._stream.flush()
            line = self._stream.readline()
        except TimeoutError as error:
            over = self._budget.left <= 0
            raise TrialError(_over(self._budget) if over else f"no answer within {self._timeout:g} s") from error
        except OSError:
            line = ""
        if not line:
            raise TrialError(self._end())
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise TrialError(answer["error"])
        return answer

    def _end(self) -> str:
        try:
            code = self._process.wait(_LEAVE_S)
        except subprocess.TimeoutExpired:
            return "the process closed its socket"
        said = self._log.read_text(encoding="utf-8", errors="replace").strip()[-_SHOWN:]
        return f"the process {how_it_ended(code)}" + (f": {said.splitlines()[-1]}" if said else "")


def _over(budget: Budget) -> str:
    return f"not measured: the budget of {budget.seconds:g} s was over"


@dataclass(frozen=True)
class Candidate:
    """A way to run the model.

    Attributes:
        name: as the table shows it.
        section: `optimize` of model-config.yaml; empty for the plain model.
        threads: `backend.threads`; None leaves it as it is.
    """

    name: str
    section: Mapping[str, Any] = field(default_factory=dict)
    threads: int | None = None


@dataclass
class Row:
    """The result of a candidate.

    Attributes:
        problem: why it is out of the question; None if it is not.
        latency: median seconds of a request alone.
        rate: requests each second in batches.
        memory: bytes of its process.
        difference: from the plain model's outputs, as a part of their largest number; None if that is unknown.
        agreement: part of the inputs whose largest score is in the same place; None where there are no scores.
        rounds: for each round by how many times it was faster alone, and in batches.
        cache: the file with what was compiled, and its record; None if nothing was.
    """

    candidate: Candidate
    problem: str | None = None
    latency: float | None = None
    rate: float | None = None
    memory: int = 0
    difference: float | None = None
    agreement: float | None = None
    rounds: list[tuple[float, float]] = field(default_factory=list)
    cache: tuple[Path, dict[str, Any]] | None = None

    @property
    def speedups(self) -> tuple[float, float]:
        """By how many times it is faster alone, and in batches: the medians of the rounds."""
        return (
            statistics.median(one for one, _ in self.rounds),
            statistics.median(one for _, one in self.rounds),
        )

    @property
    def score(self) -> float:
        """One number for both: their geometric mean."""
        return math.sqrt(math.prod(self.speedups))

    @property
    def is_faster(self) -> bool:
        """Whether it is faster, by more than the rounds differ, and slower in nothing."""
        if self.problem is not None or not self.rounds:
            return False
        always = all(math.sqrt(alone * together) > 1 for alone, together in self.rounds)
        return always and self.score >= 1 + MARGIN and min(self.speedups) >= _NOT_SLOWER

    @property
    def doubt(self) -> str | None:
        """Why it does not count as faster although its medians are; None if they are not, or it does."""
        if self.is_faster or self.problem is not None or not self.rounds or self.score < 1 + MARGIN:
            return None
        slower = sum(math.sqrt(alone * together) <= 1 for alone, together in self.rounds)
        if slower:
            return f"faster by the medians, but slower in {slower} of {len(self.rounds)} rounds"
        return "faster in all, but slower alone or in batches"

    def to_dict(self) -> dict[str, Any]:
        """Return one JSON-ready object; times in milliseconds."""
        speedups = [round(one, 3) for one in self.speedups] if self.rounds else [None, None]
        return {
            "name": self.candidate.name,
            "optimize": dict(self.candidate.section),
            "threads": self.candidate.threads,
            "latencyMs": None if self.latency is None else round(self.latency * 1000, 3),
            "requestsPerSecond": None if self.rate is None else round(self.rate, 2),
            "memory": self.memory or None,
            "difference": self.difference if self.difference is None or math.isfinite(self.difference) else "infinite",
            "agreement": self.agreement,
            "latencySpeedup": speedups[0],
            "throughputSpeedup": speedups[1],
            "faster": self.is_faster,
            "problem": self.problem,
        }


class Contest:
    """The plain model in a process, and candidates one after the other in others; a context manager.

    Args:
        scratch: an empty folder.
        device: "cpu" or "cuda:N".
        inputs: name, file and content type of each.
        batch: requests that go together in the second measurement; `fit` may make it smaller.
        rounds: in each of which both are measured; `fit` may make them fewer.
        seconds: of a measurement in a round.
        timeout: seconds for loading, compiling and each measurement.
        budget: the time for all of it.

    Attributes:
        row: of the plain model.
        facts: of the model and the machine.
        request: seconds that the plain model takes for a request, once it has answered some.

    Raises:
        TorchmarError: the plain model cannot be loaded, or refuses an input.
    """

    def __init__(
        self,
        scratch: Path,
        plain: Path,
        device: str,
        inputs: Sequence[tuple[str, Path, str]],
        *,
        batch: int,
        rounds: int,
        seconds: float,
        timeout: float,
        budget: Budget | None = None,
    ) -> None:
        self._scratch = scratch
        self._settings = {
            "device": device,
            "batch": batch,
            "inputs": [[name, str(file), kind] for name, file, kind in inputs],
        }
        self.batch = batch
        self.rounds = rounds
        self._seconds = seconds
        self._timeout = timeout
        self._budget = budget or Budget()
        self._stack = contextlib.ExitStack()
        self._outputs = scratch / "outputs.pt"
        self._folder = plain
        self.row = Row(Candidate("plain float32"))
        self.facts: dict[str, Any] = {}
        self.request = 0.0
        self._loading = 0.0

    def __enter__(self) -> Contest:
        try:
            self._plain = self._stack.enter_context(self._start("plain"))
            try:
                begin = time.monotonic()
                self._plain.ask("load", folder=str(self._folder), **self._settings)
                self.facts = self._plain.ask("facts")
                refused = self._plain.ask("answer").get("refused")
                self._loading = time.monotonic() - begin
                if refused is None:
                    self._plain.ask("outputs", file=str(self._outputs))
                    self.request = min(self._plain.ask("measure", batch=1, seconds=0, least=1)["seconds"])
            except TrialError as error:
                raise TorchmarError(
                    f"the model cannot be run: {error}", hint="torchmar run shows the handler's log and traceback"
                ) from error
            if refused is not None:
                raise CheckError(f"the model refuses an input: {refused}")
            self.row.memory = self._plain.memory
            self.row.difference = 0.0
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, name: str) -> Process:
        folder = self._scratch / name
        folder.mkdir()
        return Process(folder, self._timeout, self._budget)

    def fit(self, candidates: int) -> None:
        """Make rounds fewer, and then batches smaller, until so many candidates fit into the budget.

        A batch is taken to last as long as its requests one by one. `measure` reports what still does not fit.
        The plain model is warmed up for what is left.

        Raises:
            TorchmarError: the plain model takes too long for that already.
        """
        wanted = self.rounds
        while candidates * self._cost(self.batch, self.rounds) > self._budget.left:
            if self.rounds > LEAST_ROUNDS:
                self.rounds -= 1
            elif self.batch > 1:
                self.batch, self.rounds = self.batch // 2, wanted
            else:
                break
        try:
            self._warm(self._plain)
        except TrialError as error:
            raise TorchmarError(f"the plain model cannot be measured: {error}", hint="raise --budget") from error

    def _cost(self, batch: int, rounds: int) -> float:
        """Estimate the seconds that a candidate takes, compilers apart."""
        sizes = sorted({1, batch})
        measuring = sum(max(self._seconds, self._least(size) * size * self.request) for size in sizes)
        return self._loading + (1 + 2 * rounds) * measuring

    def _least(self, batch: int) -> int:
        """Return how often a batch runs in a measurement at least: several times, unless that takes long."""
        return 3 if 3 * batch * self.request <= self._seconds else 1

    def _warm(self, process: Process) -> None:
        for batch in sorted({1, self.batch}):
            process.ask("warm", batch=batch, seconds=self._seconds, least=self._least(batch))

    def measure(self, candidate: Candidate, folder: Path, number: int) -> Row:
        """Measure one candidate; what goes wrong with it is in the row."""
        row = Row(candidate)
        with self._start(f"trial-{number}") as process:
            try:
                process.ask("load", folder=str(folder), **self._settings)
                refused = process.ask("answer").get("refused")
                if refused is not None:
                    raise TrialError(refused)
                self._warm(process)
                found = process.ask("compare", file=str(self._outputs))
                row.difference, row.agreement = found["difference"], found["agreement"]
                self._take_turns(process, row)
                row.memory = process.memory
                row.problem = _left(candidate, process.ask("state"))
                if row.problem is None and candidate.section.get("compile"):
                    file = self._scratch / f"cache-{number}.bin"
                    record = process.ask("save", file=str(file))["record"]
                    row.cache = (file, record) if record else None
            except TrialError as error:
                row.problem = str(error)
        return row

    def _take_turns(self, process: Process, row: Row) -> None:
        times: dict[tuple[str, int], list[float]] = {}
        longest = 0.0
        for turn in range(self.rounds):
            # A round may take longer than those before it, and with no time left none of them would count.
            if self._budget.left < 2 * longest:
                if turn < LEAST_ROUNDS:
                    raise TrialError(_over(self._budget))
                break
            begin = time.monotonic()
            medians = {}
            both = [("plain", self._plain), ("other", process)]
            for batch in sorted({1, self.batch}):
                for who, one in both if turn % 2 else reversed(both):
                    least = self._least(batch)
                    seconds = one.ask("measure", batch=batch, seconds=self._seconds, least=least)["seconds"]
                    medians[who, batch] = statistics.median(seconds)
                    times.setdefault((who, batch), []).append(medians[who, batch])
            alone = medians["plain", 1] / medians["other", 1]
            together = medians["plain", self.batch] / medians["other", self.batch]
            row.rounds.append((alone, together))
            longest = max(longest, time.monotonic() - begin)
        for who, found in (("plain", self.row), ("other", row)):
            found.latency = statistics.median(times[who, 1])
            found.rate = self.batch / statistics.median(times[who, self.batch])


def _left(candidate: Candidate, state: Mapping[str, Any]) -> str | None:
    """Say why the model is not served as the candidate wants it; None if it is."""
    if not candidate.section:
        return None
    said: list[str] = [
        text for text in state["warnings"] if "optimize" in text or "failed" in text or "differs" in text
    ]
    serving = state["serving"]
    if serving is None or serving == "plain":
        return said[-1] if said else "the model cannot be run so"
    if candidate.section.get("compile") and any("Serving" in text or "serving" in text for text in said):
        return said[-1]
    return None


def best(rows: Sequence[Row]) -> Row | None:
    """Return the candidate to recommend; None if none is faster than the plain model by more than the noise."""
    faster = [row for row in rows if row.is_faster]
    return max(faster, key=lambda row: row.score, default=None)
