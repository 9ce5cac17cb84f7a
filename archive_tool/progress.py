"""A progress bar for the command line: on stderr, on a terminal, and only for work that takes a while."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Bytes below which there is no bar: less takes under a second or so.
FROM: Final = 256_000_000


@contextlib.contextmanager
def progress_bar(label: str, *, hidden: bool = False) -> Iterator[Callable[[int, int], None] | None]:
    """Show how far some work is; the bar goes when the work is done.

    Yields:
        what to call with the bytes done and the bytes in all; None if there is nobody to see it.
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


def _bar(stack: contextlib.ExitStack, label: str) -> Callable[[int, int], None]:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = ("{task.description}", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    bar = stack.enter_context(Progress(*columns, console=Console(stderr=True), transient=True))
    task = bar.add_task(label)

    def show(done: int, total: int) -> None:
        bar.update(task, completed=done, total=total)

    return show
