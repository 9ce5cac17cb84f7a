"""The progress of long work on stderr, shown only where someone sees it."""

from __future__ import annotations

import builtins
import contextlib
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Bytes below which there is no bar: fewer take under a second or so.
FROM: Final = 256_000_000


def steps(told: Callable[[str], None] | None, *, quiet: bool) -> Callable[[str], None]:
    """Return the function to call with each step of some work, as it begins.

    Args:
        told: the caller's own function, for each step.
        quiet: show nothing; else, without `told`, each step is a line on stderr, on a terminal or in a notebook.
    """
    seen = sys.stderr is not None and (sys.stderr.isatty() or hasattr(builtins, "__IPYTHON__"))

    def tell(step: str) -> None:
        if quiet:
            return
        if told is not None:
            told(step)
        elif seen:
            print(step, file=sys.stderr, flush=True)

    return tell


@contextlib.contextmanager
def progress_bar(label: str, *, hidden: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """Show the progress of some work; the bar disappears when the work is done.

    Yields:
        a function to call with the bytes done and the bytes in all; None if no one would see the bar.
    """
    if hidden or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    with contextlib.ExitStack() as stack:
        show: Callable[[int, int], None] | None = None

        def progress(done: int, total: int) -> None:
            nonlocal show
            if total >= FROM:
                show = show or _bar(stack, label)
                show(done, total)

        yield progress


@contextlib.contextmanager
def row_bar(label: str, *, hidden: bool = False) -> Iterator[Callable[[int, int, float], None] | None]:
    """Show how far a job has come that takes rows; the bar disappears when it is done.

    Yields:
        a function to call with the rows that are done, those of them that failed, and the part of the inputs that they
        are, from 0 to 1; None if no one would see the bar.
    """
    if hidden or sys.stderr is None or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    rows = TextColumn("{task.fields[rows]:,} rows, {task.fields[failed]:,} failed")
    columns = ("{task.description}", BarColumn(), TaskProgressColumn(), rows, TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=1.0, rows=0, failed=0)

        def show(rows: int, failed: int, part: float) -> None:
            bar.update(task, completed=part, rows=rows, failed=failed)

        yield show


def _bar(stack: contextlib.ExitStack, label: str) -> Callable[[int, int], None]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bar = stack.enter_context(Progress(*columns, console=Console(stderr=True), transient=True))
    task = bar.add_task(label)

    def show(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)

    return show
