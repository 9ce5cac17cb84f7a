"""The wait until every model of a starting server is ready, or the reason why it will not be."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from archive_tool.exit_codes import how_it_ended
from serving.client import ManagementClient, ModelVersion
from serving.control.following.diagnosis import LogWatch
from serving.control.following.installing import installing
from serving.control.following.reasons import reason
from serving.control.models.store import Selection
from serving.errors import NotRunningError, ReplyError, StartError

# How the frontend ends when it is asked to: by its own exit code, or seen as a signal.
STOPPED_CODES = (143, -15)
# A worker's traceback can be lost between the worker and the frontend's log; the frontend tries again after a second.
_FAILURES_WITHOUT_TRACEBACK = 2
_POLL_S = 0.1
# A start that takes no longer is not asked what it is doing.
_LONG_START_S = 2.0

Progress = Callable[[float, str], None]


@dataclass
class Waiting:
    """A watch over a starting server: its process, its logs, and the management API.

    Attributes:
        process: the Java process.
        log_folder: its logs.
        selection: what it was asked to load.
        connect: makes a client of the management API, anew each time: its key appears when the frontend is up.
        begun: when the start began, by the monotonic clock.
        progress: called with the seconds so far and what is being waited for.
        properties: what it was started with.
        stranger: says whether another process answers in its place: its port was taken by another server after it had
            been found free, which it will say when it comes to that.
    """

    process: subprocess.Popen[bytes]
    log_folder: Path
    selection: Selection
    connect: Callable[[], ManagementClient]
    begun: float
    progress: Progress
    properties: Mapping[str, str] = field(default_factory=dict)
    stranger: Callable[[], bool] = lambda: False

    def until_ready(self, deadline: float) -> tuple[ModelVersion, ...]:
        """Wait until every expected model has a ready worker.

        Args:
            deadline: by the monotonic clock.

        Raises:
            ModelLoadError: a worker failed to load its model.
            StartError: the frontend ended, refused a model, or the deadline has passed.
        """
        watch = LogWatch(self.log_folder, from_begin=True)
        known = False
        while True:
            self._check_process()
            watch.poll()
            models = self._models()
            known = known or (models is not None and not self.stranger())
            models = models if known else None
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
            if models is None and elapsed > _LONG_START_S:
                waiting_for = installing(self.process.pid) or waiting_for
            self.progress(elapsed, waiting_for)
            if time.monotonic() > deadline:
                raise self._late(waiting_for, [line for name in names for line in watch.lines_of(name)][-5:])
            time.sleep(_POLL_S)

    def _models(self) -> tuple[ModelVersion, ...] | None:
        """Return all versions of all registered models; none before the frontend listens, for it registers first."""
        with self.connect() as client:
            try:
                return tuple(version for row in client.models() for version in client.describe(row.name))
            except (NotRunningError, ReplyError):
                return None

    def _asked(self, models: Sequence[ModelVersion]) -> Counter[str]:
        """Return how many versions of each model were asked for, by name; an archive behind a URL may have its own."""
        behind = {model.url: model.name for model in models}
        return Counter(spec.name or behind.get(spec.archive, spec.archive) for spec in self.selection.models)

    def _expected(self, models: Sequence[ModelVersion]) -> list[str]:
        """Return the names that must be ready."""
        return list(self._asked(models)) or [model.name for model in models if model.min_workers > 0]

    def _check_registered(self, names: Sequence[str], models: Sequence[ModelVersion]) -> None:
        asked = self._asked(models)
        registered = Counter(model.name for model in models)
        refused = [name for name in names if registered[name] < asked[name]]
        if refused:
            archive = next(spec.archive for spec in self.selection.models if spec.name in ("", refused[0]))
            why = reason(self.log_folder, self.properties, archive)
            raise StartError(
                f"the frontend did not take {', '.join(refused)}: {why.text}", where=str(self.log_folder), hint=why.hint
            )

    def _late(self, waiting_for: str, last_lines: Sequence[str]) -> StartError:
        return StartError(
            f"not ready after {time.monotonic() - self.begun:.0f} s: {waiting_for}"
            + (f"; last lines: {' | '.join(last_lines)}" if last_lines else ""),
            where=str(self.log_folder),
            hint="allow more time with --timeout, or see the logs",
        )

    def _check_process(self) -> None:
        code = self.process.poll()
        if code is None:
            return
        if code in STOPPED_CODES:
            raise StartError(
                "the server was stopped while it started", hint="torchmar stop was called, or a signal sent"
            )
        why = reason(self.log_folder, self.properties)
        raise StartError(f"the frontend {how_it_ended(code)}: {why.text}", where=str(self.log_folder), hint=why.hint)

    def _check_load(self, watch: LogWatch, name: str) -> None:
        failure = watch.failure(name)
        if failure is None and watch.times_failed(name) >= _FAILURES_WITHOUT_TRACEBACK:
            failure = watch.bare_failure(name)
        if failure is not None:
            raise failure.error(self.log_folder)
