"""A model that cannot be loaded: what the log and the frontend get."""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from types import TracebackType


class WorkerError(Exception):
    """The model cannot be loaded, for a reason that is not an exception of the user's code.

    Attributes:
        message: what is wrong.
        where: file of the archive, with a line if known.
        hint: what to do.
    """

    def __init__(self, message: str, *, where: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.hint = hint


class ConfigError(WorkerError):
    """The manifest or model-config.yaml is wrong."""


class HandlerError(WorkerError):
    """The handler that the manifest names is missing, or is not a handler."""


def is_out_of_memory(error: BaseException, of: type[BaseException] = RuntimeError) -> bool:
    """Return whether memory, or the GPU, failed, which the frontend calls 507.

    That is a MemoryError, torch's OutOfMemoryError for any device, or a RuntimeError that names CUDA, whose errors are
    of many classes and wordings. `handlers.errors` has the same rule: an archive carries its own copy, perhaps an older
    one, to places without this module.

    Args:
        of: the class of errors whose text counts. TorchServe takes any while requests are answered.
    """
    if isinstance(error, MemoryError) or any(kind.__name__ == "OutOfMemoryError" for kind in type(error).__mro__):
        return True
    return isinstance(error, of) and "CUDA" in text_of(error)


def text_of(error: BaseException) -> str:
    """Return the text of an exception, perhaps of a user's class; empty if that fails."""
    try:
        return str(error)
    except Exception:
        return ""


def first_cause(error: BaseException) -> BaseException:
    """Return the exception that the others of a chain followed from; one of ours names its own cause."""
    seen = {id(error)}
    while not isinstance(error, WorkerError):
        earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        if earlier is None or id(earlier) in seen:
            break
        seen.add(id(earlier))
        error = earlier
    return error


def summary(error: BaseException) -> str:
    """Return ``Type: message`` of an exception, in one line."""
    message = text_of(error).strip()
    first = message.splitlines()[0] if message else ""
    if isinstance(error, WorkerError):
        return first
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def place(error: BaseException, model_dir: Path) -> str:
    """Return where it happened: ``file.py:12 (function)`` in the archive, or the innermost place outside it."""
    if isinstance(error, WorkerError):
        return error.where
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_inside(error.filename, model_dir)}:{error.lineno}"
    found = ""
    found_inside = False
    for frame, line in traceback.walk_tb(_traceback(error)):
        file = frame.f_code.co_filename
        inside = _is_own(file, model_dir)
        if inside or not found_inside:
            found = f"{_inside(file, model_dir)}:{line} ({frame.f_code.co_name})"
            found_inside = inside or found_inside
    return found


def hint(error: BaseException) -> str:
    """Return what usually helps."""
    own = getattr(error, "hint", "")
    if isinstance(own, str) and own:
        return own
    if isinstance(error, ImportError):
        found = re.search(r"No module named '([^'.]+)", text_of(error))
        if found:
            return (
                f"is {found[1]} installed where the server runs (pip install), or a file of the archive "
                "(--extra-files)? A requirements file (-r) is installed when install_py_dep_per_model=true"
            )
    if isinstance(error, SyntaxError):
        return "correct the file and build the archive again"
    if is_out_of_memory(error):
        return "fewer workers, or a machine with more memory; backend: {mode: shared} holds the model once for all"
    return ""


def block(model: str, error: BaseException, model_dir: Path) -> str:
    """Return what is printed about a model that cannot be loaded: a traceback as TorchServe prints it, and its summary.

    The blank line after it tells readers of the log that the summary is complete.
    """
    cause = first_cause(error)
    lines = [f"Failed to load model {model}: {summary(cause)}"]
    if where := place(cause, model_dir):
        lines.append(f"  in {where}")
    if advice := hint(cause) or hint(error):
        lines.append(f"  hint: {advice}")
    return "".join(traceback.format_exception(error)).rstrip("\n") + "\n" + "\n".join(lines) + "\n\n"


def reply(error: BaseException, model_dir: Path) -> tuple[int, str]:
    """Return code and message of the answer to a load that failed."""
    cause = first_cause(error)
    where = place(cause, model_dir).partition(" (")[0]
    return (507 if is_out_of_memory(cause) else 500), summary(cause) + (f" ({where})" if where else "")


def _traceback(error: BaseException) -> TracebackType | None:
    return error.__traceback__


def _is_own(file: str, model_dir: Path) -> bool:
    """Return whether it is a file of the archive's author: of the archive, but not the copy of the SDK in it."""
    shown = _inside(file, model_dir)
    return shown != file and not shown.startswith("handlers/")


def _inside(file: str, model_dir: Path) -> str:
    for folder in (model_dir, model_dir.resolve()):
        try:
            return Path(file).relative_to(folder).as_posix()
        except ValueError:
            continue
    return file
