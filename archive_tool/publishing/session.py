"""The source of code written in a notebook or typed into IPython: the cells that this session has run."""

from __future__ import annotations

import sys
from typing import Any, Final

from archive_tool.analysis import python_source

#: The module that the cells become in an archive; no user's module has its name.
MODULE: Final = "published_session"


def source_of(value: Any, name: str) -> bytes | None:
    """Return the statements of the session that a class or function needs; None if they are not found there.

    If a cell ran more than once, the last run counts. Code run by a magic command, such as ``%%time``, is not seen.
    """
    if getattr(value, "__module__", None) != "__main__":
        return None
    text = "\n".join(_cells())
    kept = python_source.statements_for(python_source.parse_bytes(text.encode(), MODULE), text, name.partition(".")[0])
    return ("\n\n".join(kept) + "\n").encode() if kept else None


def _cells() -> list[str]:
    """Return the code that was run, in order, as Python: magics are calls by then."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    history = getattr(shell, "history_manager", None)
    found = []
    for cell in getattr(history, "input_hist_parsed", ()):
        try:
            python_source.parse_bytes(cell.encode(), MODULE)
        except (python_source.SourceError, UnicodeError):
            continue  # it was refused when it ran, too
        found.append(cell)
    return found
