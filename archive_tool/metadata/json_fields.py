"""Reading the fields of an untrusted JSON document: each has the right type, or an error names its path."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from archive_tool.errors import UnreadableArchiveError
from archive_tool.metadata.names import MANIFEST_NAME


def error(path: str, problem: str) -> UnreadableArchiveError:
    """Make the error for a value of the manifest: the path to it, then what is wrong."""
    separator = " " if problem.startswith("is ") else ": "
    return UnreadableArchiveError(f"{path}{separator}{problem}", where=MANIFEST_NAME)


def shown(value: object) -> str:
    """Return a value as JSON, shortened for a message."""
    text = json.dumps(value, default=repr)
    return text if len(text) <= 60 else text[:57] + "..."


def optional_text(value: object, path: str) -> str | None:
    """Read a string that may be missing (None, JSON's null).

    Raises:
        UnreadableArchiveError: it is something else.
    """
    if value is None or isinstance(value, str):
        return value
    raise error(path, f"expected a string, got {shown(value)}")


def text(value: object, path: str) -> str:
    """Read a string that must be there.

    Raises:
        UnreadableArchiveError: it is missing, or something else.
    """
    found = optional_text(value, path)
    if found is None:
        raise error(path, "is missing")
    return found


def whole_number(value: object, path: str) -> int:
    """Read an integer from 0 up; JSON's true is not one.

    Raises:
        UnreadableArchiveError: it is something else.
    """
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise error(path, "is missing" if value is None else f"expected a whole number from 0 up, got {shown(value)}")


def flag(value: object, path: str) -> bool:
    """Read true or false; a missing one is false.

    Raises:
        UnreadableArchiveError: it is something else.
    """
    if value is None or isinstance(value, bool):
        return bool(value)
    raise error(path, f"expected true or false, got {shown(value)}")


def mapping(value: object, path: str) -> Mapping[str, Any]:
    """Read an object; a missing one is empty.

    Raises:
        UnreadableArchiveError: it is something else.
    """
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise error(path, f"expected an object, got {shown(value)}")
    return value


def sequence(value: object, path: str) -> list[Any]:
    """Read a list; a missing one is empty.

    Raises:
        UnreadableArchiveError: it is something else.
    """
    if value is None:
        return []
    if not isinstance(value, list):
        raise error(path, f"expected a list, got {shown(value)}")
    return value
