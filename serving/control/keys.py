"""Keys of TorchServe's token authorization: read from the frontend's key file, renewed when they have expired."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any, Literal

from serving.client import Address, Transport
from serving.control.state import ServerRecord, StateFolder

# Renewed a little early: a key must not expire between our look and the server's.
_SLACK = timedelta(seconds=30)


def current_key(record: ServerRecord, state: StateFolder, kind: Literal["inference", "management"]) -> str | None:
    """The key for an API; None when the server asks for none.

    Raises:
        NotRunningError, ReplyError: an expired key could not be renewed.
    """
    document = _read(state)
    if kind not in document:
        return None
    if _expired(document[kind]):
        with Transport(Address(record.management), timeout_s=30.0, token=document["API"]["key"]) as transport:
            # The answer is a sentence; the new key is in the file.
            transport.checked("GET", "/token", params={"type": kind})
        document = _read(state)
    return str(document[kind]["key"])


def _read(state: StateFolder) -> dict[str, Any]:
    try:
        document = json.loads(state.keys.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def _expired(entry: dict[str, Any]) -> bool:
    text = str(entry.get("expiration time", ""))
    try:
        # Python 3.10 reads neither "Z" nor more than six digits of a second.
        until = datetime.fromisoformat(text.rstrip("Z")[:26]).replace(tzinfo=timezone.utc)
    except ValueError:
        return False
    return datetime.now(timezone.utc) + _SLACK > until
