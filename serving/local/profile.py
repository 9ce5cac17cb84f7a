"""Time of a request by step: a clock around the steps of a handler, and traces by the torch profiler."""

from __future__ import annotations

import functools
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from archive_tool.errors import InputError
from serving.worker.loading.loader import Model

#: Hooks of a handler that are measured, in the order in which they run.
STEPS = ("preprocess", "inference", "postprocess", "explain_handle")
HANDLE = "handle"
#: The remainder of a step or of the whole, by the name of the row.
REST_OF_HANDLE = "rest of the handler"
REST = "frames and worker"
TOTAL = "total"


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Attributes:
        name: of the step.
        first: seconds of the first run.
        median: seconds of the further runs; None without any.
        share: of the total, by the median if there is one.
    """

    name: str
    first: float
    median: float | None
    share: float


class Stopwatch:
    """A clock for the steps of a handler; steps that a handler lacks are absent.

    Attributes:
        seconds: by step, since `lap`. Of steps within steps the outer one counts.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inside = threading.local()
        self._range: Callable[[str], Any] = lambda _: nullcontext()

    def adapt(self, model: Model) -> None:
        """Put the clock around a model's entry and its handler's hooks."""
        model.entry = self._timed(HANDLE, model.entry, outer=True)
        for name in STEPS:
            hook = getattr(model.handler, name, None)
            if callable(hook):
                try:
                    setattr(model.handler, name, self._timed(name, hook))
                except AttributeError:  # __slots__, or a property
                    continue

    def lap(self) -> dict[str, float]:
        """Return the seconds by step since the last call."""
        seconds, self.seconds = self.seconds, {}
        return seconds

    @contextmanager
    def named_ranges(self, record: Callable[[str], Any]) -> Iterator[None]:
        """Show the steps in a trace under their names."""
        kept, self._range = self._range, record
        try:
            yield
        finally:
            self._range = kept

    def _timed(self, name: str, hook: Callable[..., Any], *, outer: bool = False) -> Callable[..., Any]:
        @functools.wraps(hook)
        def run(*args: Any, **kwargs: Any) -> Any:
            if not outer and getattr(self._inside, "step", False):
                return hook(*args, **kwargs)
            self._inside.step = not outer
            _synchronize()
            begin = time.perf_counter()
            try:
                with self._range(name):
                    return hook(*args, **kwargs)
            finally:
                _synchronize()
                self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - begin
                self._inside.step = False

        return run


def rows(laps: list[tuple[float, dict[str, float]]]) -> list[Row]:
    """Return the table of some runs of one message.

    Args:
        laps: seconds of a run, and of each step in it; at least one.
    """
    found = [_complete(total, steps) for total, steps in laps]
    names = [name for name in (*STEPS, REST_OF_HANDLE, REST, TOTAL) if any(name in lap for lap in found)]
    further = found[1:]
    typical = {
        name: statistics.median(lap.get(name, 0.0) for lap in further) if further else found[0].get(name, 0.0)
        for name in names
    }
    whole = typical[TOTAL] or 1.0
    return [
        Row(name, found[0].get(name, 0.0), typical[name] if further else None, typical[name] / whole) for name in names
    ]


def _complete(total: float, steps: dict[str, float]) -> dict[str, float]:
    handle = steps.get(HANDLE, 0.0)
    own = {name: seconds for name, seconds in steps.items() if name != HANDLE}
    # Steps may overlap in threads: the remainder is never negative.
    return own | {REST_OF_HANDLE: max(0.0, handle - sum(own.values())), REST: max(0.0, total - handle), TOTAL: total}


@contextmanager
def trace(path: Path, stopwatch: Stopwatch) -> Iterator[None]:
    """Write what torch does meanwhile, with the names of the steps, as a trace that Chrome and Perfetto show.

    Raises:
        InputError: torch is missing, or the file cannot be written.
    """
    try:
        from torch import cuda, profiler
    except ImportError as error:
        raise InputError(f"a trace needs torch, which cannot be imported: {error}", where="--trace") from error
    activities = [profiler.ProfilerActivity.CPU, *([profiler.ProfilerActivity.CUDA] if cuda.is_available() else [])]
    # The ranges begin and end inside the profile.
    with (
        profiler.profile(activities=activities, record_shapes=True) as recorder,
        stopwatch.named_ranges(profiler.record_function),
    ):
        yield
    try:
        recorder.export_chrome_trace(str(path))
    except (OSError, RuntimeError) as error:
        raise InputError(f"the trace cannot be written: {error}", where=str(path)) from error
    if not path.is_file():  # torch only logs it
        raise InputError("the trace cannot be written", where=str(path))


def check_trace(path: Path) -> None:
    """Refuse a place for a trace, before anything takes time.

    Raises:
        InputError: it cannot be written to.
    """
    if not path.parent.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InputError(
            f"the trace {path} cannot be written", where="--trace", hint="name a file in a folder of yours"
        )


def _synchronize() -> None:
    """Wait for the GPU, so that a step's time is its own."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    if cuda is not None and cuda.is_initialized():
        cuda.synchronize()
