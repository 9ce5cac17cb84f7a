"""Why a check failed: file, line, cause and hint, from what the worker printed and how it ended."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Sequence
from pathlib import Path

from archive_tool import exit_codes
from serving.check.process import Worker
from serving.check.result import InputResult
from serving.control.following.diagnosis import LoadFailure, hint_for, read_failure, read_traceback
from serving.errors import CheckError, ModelLoadError

# A line of faulthandler, which prints the innermost frame first.
_FRAME = re.compile(r'^ *File "(?P<file>.+?)", line (?P<line>\d+)(?: in (?P<function>.+))?$', re.MULTILINE)
_LAST_LINES = 6


def load_failure(model: str, worker: Worker, folder: Path, code: int | None, *, told: str = "") -> ModelLoadError:
    """Explain why a model could not be loaded.

    Args:
        code: exit code of the worker; None if it did not end.
        told: its answer, if there was one.
    """
    lines = worker.lines()
    found = read_failure(model, lines)
    if found is None:
        message = f"model {model} cannot be loaded: {told or 'its worker failed: ' + how_it_ended(code)}"
        where = place_of(worker.stderr, folder)
        last = "" if told or where else _last_lines(worker)
        return ModelLoadError(message + last, model=model, where=where, hint=_crash_hint(code))
    return ModelLoadError(
        f"model {model} cannot be loaded: {found.cause}",
        model=model,
        traceback=found.traceback,
        where=_where(found),
        hint=found.hint or hint_for(found.cause) or None,
    )


def request_failure(model: str, name: str, found: InputResult, lines: Sequence[str]) -> CheckError:
    """Explain why an input was answered with an error.

    Args:
        lines: what the worker printed since the input was sent.
    """
    failure = read_traceback(model, lines, 0)
    text = _message(found)
    if failure is None:
        return CheckError(f"input {name}: status {found.status}: {text}")
    return CheckError(
        f"input {name}: status {found.status}: {failure.cause}",
        traceback=failure.traceback,
        where=_where(failure),
        hint=hint_for(failure.cause) or None,
    )


def death(message: str, worker: Worker, folder: Path, code: int | None) -> CheckError:
    """Explain a worker that ended instead of answering."""
    where = place_of(worker.stderr, folder)
    text = f"{message}: {how_it_ended(code)}" + ("" if where else _last_lines(worker))
    return CheckError(text, where=where, hint=_crash_hint(code))


def hang(message: str, dump: str, folder: Path) -> CheckError:
    """Explain a handler that does not return; ``dump`` is where all its threads were."""
    hint = "it hangs, or needs longer: --timeout SECONDS; in a server responseTimeout and startupTimeout say how long"
    return CheckError(message, where=place_of(dump, folder), hint=hint, traceback=_shown(dump, folder))


def place_of(dump: str, folder: Path) -> str | None:
    """Return the innermost frame in the archive's own files that faulthandler printed; None if there is none."""
    for found in _FRAME.finditer(dump):
        file = Path(found["file"])
        if file.is_relative_to(folder) and not file.is_relative_to(folder / "handlers"):
            function = f" ({found['function']})" if found["function"] else ""
            return f"{file.relative_to(folder).as_posix()}:{found['line']}{function}"
    return None


def how_it_ended(code: int | None) -> str:
    """Describe an exit code in words."""
    if code is None:
        return "it closed the connection"
    return f"it {exit_codes.how_it_ended(code)}"


def _crash_hint(code: int | None) -> str | None:
    if code is not None and code < 0 and code != -signal.SIGKILL:
        return "native code crashed; standard error has the stack"
    return None


def _where(failure: LoadFailure) -> str | None:
    return f"{failure.file}:{failure.line}" if failure.file and failure.line else failure.file


def _message(found: InputResult) -> str:
    """Return the handler's own words, out of the JSON in which the SDK and the worker put them."""
    content = found.output
    if isinstance(content, dict) and isinstance(content.get("message"), str):
        return str(content["message"])
    text = content if isinstance(content, str) else json.dumps(content, default=repr)
    return text if len(text) <= 500 else text[:500] + "..."


def _last_lines(worker: Worker) -> str:
    lines = [line for line in (worker.stdout + worker.stderr).splitlines() if line.strip()][-_LAST_LINES:]
    return f"; its last lines: {' | '.join(lines)}" if lines else ""


def _shown(dump: str, folder: Path) -> str:
    return dump.replace(f"{folder}/", "").strip()
