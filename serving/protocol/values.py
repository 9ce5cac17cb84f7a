"""Parameter values as handlers expect them: JSON and text decoded, all else raw."""

from __future__ import annotations

import json
from typing import Any


def decoding_enabled(setting: str | None) -> bool:
    """Return whether values are decoded at all, by TS_DECODE_INPUT_REQUEST: only unset and ``true`` say yes."""
    return setting is None or setting == "true"


def decode_value(
    value: bytes | bytearray, content_type: str, *, decode: bool = True
) -> tuple[Any, ValueError | RecursionError | None]:
    """Return what a handler gets for a parameter.

    Exactly ``application/json`` is parsed, anything that starts with ``text`` becomes a str; both must be UTF-8.
    Everything else, and what cannot be decoded, is ``value`` itself.

    Returns:
        The value for the handler, and why it could not be decoded (None if it was, or was not to be).
    """
    if not decode:
        return value, None
    try:
        if content_type == "application/json":
            # By way of str: json.loads would take UTF-16 and a byte order mark in bytes, the stock backend does not.
            return json.loads(value.decode("utf-8")), None
        if content_type.startswith("text"):
            return value.decode("utf-8"), None
    except (ValueError, RecursionError) as error:
        return value, error
    return value, None
