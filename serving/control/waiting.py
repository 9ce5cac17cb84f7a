"""Waits until every model of a starting server is ready, or tells why it will not be."""

from __future__ import annotations

import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from serving.client import ManagementClient, ModelVersion
from serving.control.diagnosis import LogWatch
from serving.control.store import Selection
from serving.errors import NotRunningError, ReplyError, StartError

# How the frontend ends when it is asked to: by its own exit code, or seen as a signal.
STOPPED_CODES = (143, -15)
# A worker's traceback can be lost between the worker and the frontend's log; the frontend tries again after a second.
_FAILURES_WITHOUT_TRACEBACK = 2
_POLL_S = 0.1

# What the Java runtime and the search for GPUs always say, and what a runtime says that is too old for the frontend.
_NOISE = re.compile(r"WARNING:|(nvidia|xpu)-smi not available")
_OLD_JAVA = ("UnsupportedClassVersionError", "Could not create the Java Virtual Machine")

Progress = Callable[[float, str], None]


@dataclass
class Waiting:
    """Watches a starting server: its process, its logs, and what the management API tells.

    Attributes:
        process: the Java process.
        log_folder: its logs.
        selection: what it was asked to load.
        connect: makes a client of the management API, anew each time: its key appears when the frontend is up.
        begun: when the start began, by the monotonic clock.
        progress: called with the seconds so far and what is being waited for.
    """

    process: subprocess.Popen[bytes]
    log_folder: Path
    selection: Selection
    connect: Callable[[], ManagementClient]
    begun: float
    progress: Progress

    def until_ready(self, deadline: float) -> tuple[ModelVersion, ...]:
        """Returns when every expected model has a ready worker.

        Args:
            deadline: by the monotonic clock.

        Raises:
            ModelLoadError: a worker failed to load its model.
            StartError: the frontend ended, refused a model, or the deadline has passed.
        """
        watch = LogWatch(self.log_folder, from_begin=True)
        while True:
            self._check_process()
            watch.poll()
            models = self._models()
            names = self._expected(models or ())
            for name in names:
                self._check_load(watch, name)
            waiting_for = "starting the frontend"
            if models is not None:
                self._check_registered(names, models)
                missing = [
                    f"{model.name} {model.version}"
                    for model in models
                    if model.name in names and model.min_workers and not model.ready_workers
                ]
                if not missing:
                    return models
                waiting_for = f"loading {', '.join(missing)}"
            elapsed = time.monotonic() - self.begun
            self.progress(elapsed, waiting_for)
            if time.monotonic() > deadline:
                raise self._late(waiting_for, [line for name in names for line in watch.lines_of(name)][-5:])
            time.sleep(_POLL_S)

    def _models(self) -> tuple[ModelVersion, ...] | None:
        """All versions of all registered models: the frontend registers before it listens. None before that."""
        with self.connect() as client:
            try:
                return tuple(version for row in client.models() for version in client.describe(row.name))
            except (NotRunningError, ReplyError):
                return None

    def _expected(self, models: Sequence[ModelVersion]) -> list[str]:
        """Names that must be ready."""
        named = [spec.name for spec in self.selection.models]
        return list(dict.fromkeys(named)) or [model.name for model in models if model.min_workers > 0]

    def _check_registered(self, names: Sequence[str], models: Sequence[ModelVersion]) -> None:
        asked = Counter(spec.name for spec in self.selection.models)
        registered = Counter(model.name for model in models)
        refused = [name for name in names if registered[name] < asked[name]]
        if refused:
            raise StartError(
                f"the frontend did not take {', '.join(refused)}: {self._last_words()}",
                where=str(self.log_folder),
            )

    def _late(self, waiting_for: str, last_lines: Sequence[str]) -> StartError:
        return StartError(
            f"not ready after {time.monotonic() - self.begun:.0f} s: {waiting_for}"
            + (f"; last lines: {' | '.join(last_lines)}" if last_lines else ""),
            where=str(self.log_folder),
            hint="allow more time with --timeout, or see the logs",
        )

    def _last_words(self) -> str:
        lines: list[str] = []
        for name in ("java.log", "ts_log.log"):
            path = self.log_folder / name
            if path.exists():
                lines += path.read_text(encoding="utf-8", errors="replace").splitlines()
        told = [line for line in lines if line.strip() and not line.startswith("\tat ") and not _NOISE.search(line)]
        return " | ".join(told[-4:]) or "it said nothing"

    def _check_process(self) -> None:
        code = self.process.poll()
        if code is None:
            return
        if code in STOPPED_CODES:
            raise StartError(
                "the server was stopped while it started", hint="torchmar stop was called, or a signal sent"
            )
        words = self._last_words()
        too_old = any(sign in words for sign in _OLD_JAVA)
        raise StartError(
            f"the frontend ended with exit code {code}: {words}",
            where=str(self.log_folder),
            hint="TorchServe needs Java 11 or newer: unset JAVA_HOME to use the one of torchmar" if too_old else None,
        )

    def _check_load(self, watch: LogWatch, name: str) -> None:
        failure = watch.failure(name)
        if failure is None and watch.times_failed(name) >= _FAILURES_WITHOUT_TRACEBACK:
            failure = watch.bare_failure(name)
        if failure is not None:
            raise failure.error(self.log_folder)
