"""The setting ``default_answer:`` of model-config.yaml: a file of the archive that is sent where the model is too late.

Torchmar's Python frontend reads it; TorchServe's ignores it. It is a name, or ``{file: ..., content_type: ...}``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from archive_tool.config.entries import ConfigProblem, Entry, near_miss, shown

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

KEY: Final = "default_answer"
#: Bytes of the file: a server keeps it in memory.
MAX_BYTES: Final = 1 << 20
#: What is done where `file_problem` finds one.
HINT: Final = "write the name that the file has in the archive, and put it there, with --extra-files for example"
#: Settings of TorchServe with which no request gets a default answer.
WITHOUT: Final = ("sequenceBatching", "continuousBatching", "useJobTicket")
_EXPECTED: Final = "the name of a file in the archive, or {file: NAME, content_type: TYPE}"
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+( *;[ -~]*)?")


@dataclass(frozen=True)
class DefaultAnswer:
    """What the setting says.

    Attributes:
        file: name in the archive.
        content_type: media type of its contents; None to derive it from the name.
    """

    file: str
    content_type: str | None = None


def read(document: Mapping[str, Any]) -> DefaultAnswer | None:
    """Read the setting of a config file; None if there is none, or if `check` finds it wrong."""
    value = document.get(KEY)
    return None if _problem(value) else _understood(value)


def _understood(value: Any) -> DefaultAnswer:
    return DefaultAnswer(value) if isinstance(value, str) else DefaultAnswer(value["file"], value.get("content_type"))


def _problem(value: Any) -> str | None:
    if isinstance(value, dict):
        if further := [key for key in value if key not in ("file", "content_type")]:
            return f"{KEY} has no setting {shown(further[0])}; expected {_EXPECTED}"
        kind = value.get("content_type")
        if kind is not None and not (isinstance(kind, str) and _MEDIA_TYPE.fullmatch(kind)):
            return f"{KEY}.content_type: expected a media type such as application/json, got {shown(kind)}"
        value = value.get("file")
    if not isinstance(value, str) or not value:
        return f"{KEY}: expected {_EXPECTED}, got {shown(value)}"
    return None


def check(entries: Mapping[str, Entry]) -> Iterator[ConfigProblem]:
    """Check the setting, as far as that is possible without the archive."""
    entry = entries.get(KEY)
    if entry is None:
        for key in entries:
            if near_miss(key, {KEY: ""}, cutoff=0.85):
                message = f"{key} is no setting that torchmar knows; it will be ignored"
                yield ConfigProblem("warning", key, entries[key].line, message, f"did you mean {KEY}?")
        return
    if problem := _problem(entry.value):
        yield ConfigProblem("error", KEY, entry.line, problem, f"write a line such as {KEY}: default.json")
    for other in WITHOUT:
        if other in entries and entries[other].value is True:
            message = f"{KEY} has no effect with {other}"
            yield ConfigProblem("warning", KEY, entry.line, message, f"remove {KEY}, or {other}")


def file_problem(answer: DefaultAnswer, sizes: Mapping[str, int]) -> str | None:
    """Say why an archive cannot give this answer; None if it can.

    Args:
        answer: of its config file.
        sizes: of its members, by their names, none of which leads out of the archive.
    """
    size = sizes.get(answer.file)
    if size is None:
        return f"{KEY} names {answer.file!r}, which is no file of the archive"
    if size > MAX_BYTES:
        return f"{KEY} names {answer.file!r}, which has {size} bytes; a server keeps at most {MAX_BYTES} in memory"
    return None
