"""Keys of TorchServe's token authorization: read from the frontend's key file, renewed when they have expired.

And those of the user's own, which the environment gives to a server of the Python frontend: they never expire.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Final, Literal

from archive_tool.errors import InputError
from serving.client import Address, Transport
from serving.control.state import ServerRecord, StateFolder

Api = Literal["inference", "management"]
_APIS: Final[tuple[Api, ...]] = ("inference", "management")

# Renewed a little early: a key must not expire between our look and the server's.
_SLACK = timedelta(seconds=30)
# Characters that can go into a header; TorchServe's own keys are a few letters of base64.
_KEY = re.compile(r"[!-~]{1,4096}")
_MAX_FILE: Final = 65536
#: Variables that give a server its keys, or with ``_FILE`` behind them the files that hold them.
VARIABLES: Final[dict[Api, str]] = {api: f"TORCHMAR_{api.upper()}_KEY" for api in _APIS}
# Shorter ones are tried out.
_LEAST_LETTERS: Final = 16


@dataclass(frozen=True)
class Key:
    """A key.

    Attributes:
        kind: the API that it is for, or ``API`` for the one that renews the others.
        text: what follows ``Bearer``.
        expires: as the server writes it, in UTC; empty for never.
    """

    kind: str
    text: str
    expires: str


def current_key(record: ServerRecord, state: StateFolder, kind: Api) -> str | None:
    """Return the key for an API; None when the server asks for none.

    Raises:
        NotRunningError, ReplyError: an expired key could not be renewed.
    """
    return _key_of(_read(state.keys), state.keys, kind, record.management)


def current_keys(record: ServerRecord, state: StateFolder) -> tuple[Key, ...]:
    """Return all keys of a server; none when it asks for none.

    Raises:
        NotRunningError, ReplyError: an expired key could not be renewed.
    """
    for api in _APIS:
        current_key(record, state, api)
    document = _read(state.keys)
    return tuple(
        Key(kind, str(document[kind]["key"]), str(document[kind].get("expiration time", "")))
        for kind in (*_APIS, "API")
        if kind in document
    )


def key_in_file(file: Path, kind: Api, management: str | None) -> str:
    """Read the key from a file of the user's: alone, or in a ``key_file.json`` of TorchServe's.

    Args:
        file: to read.
        kind: the API that it is for, in a file that holds several.
        management: address at which an expired key of such a file can be renewed; None to take it as it is.

    Raises:
        InputError: the file cannot be read, or holds no key.
        NotRunningError, ReplyError: an expired key could not be renewed.
    """
    try:
        text = _text(file)
    except (OSError, ValueError) as error:
        raise InputError(f"the key cannot be read: {error}", where=str(file)) from error
    if not text.lstrip().startswith("{"):
        return checked_key(text, str(file))
    if (found := _key_of(_parsed(text), file, kind, management)) is None:
        raise InputError(f"no key for the {kind} API in {file}")
    return found


def given_keys(environ: Mapping[str, str] = os.environ) -> dict[Api, str]:
    """Return the keys that the environment gives: ``TORCHMAR_INFERENCE_KEY``, or its file, and so on.

    Raises:
        InputError: one cannot be read, or is no key that can be trusted.
    """
    found: dict[Api, str] = {}
    for api, variable in VARIABLES.items():
        if variable in environ and f"{variable}_FILE" in environ:
            raise InputError(f"{variable} and {variable}_FILE are both set", hint="set one of the two")
        if variable in environ:
            found[api] = checked_key(environ[variable], variable)
        elif path := environ.get(f"{variable}_FILE"):
            found[api] = key_in_file(Path(path), api, None)
        if api in found and len(found[api]) < _LEAST_LETTERS:
            raise InputError(
                f"the key of {variable} has less than {_LEAST_LETTERS} letters, and can be guessed",
                hint="""python -c 'import secrets; print(secrets.token_urlsafe())' makes one""",
            )
    return found


def without_given(environ: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without the keys that it gives: handlers and what they start see it."""
    ours = {name for variable in VARIABLES.values() for name in (variable, f"{variable}_FILE")}
    return {name: value for name, value in environ.items() if name not in ours}


def write_given(path: Path, keys: Mapping[Api, str]) -> None:
    """Write keys for the frontend to read, for their owner alone."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        json.dump(dict(keys), file)


def checked_key(text: str, origin: str) -> str:
    """Return a key without the blanks around it.

    Raises:
        InputError: it cannot be a key; says so without showing it.
    """
    key = text.strip()
    if not _KEY.fullmatch(key):
        raise InputError(
            f"not a key: {origin} holds {'nothing' if not key else 'more than one word, or letters that are not ASCII'}"
        )
    return key


def _key_of(document: dict[str, Any], file: Path, kind: Api, management: str | None) -> str | None:
    if kind not in document:
        return None
    if management is not None and "API" in document and _expired(document[kind]):
        with Transport(Address(management), timeout_s=30.0, token=document["API"]["key"]) as transport:
            # The answer is a sentence; the new key is in the file.
            transport.checked("GET", "/token", params={"type": kind})
        document = document | _read(file)
    return str(document[kind]["key"])


def _read(file: Path) -> dict[str, Any]:
    try:
        return _parsed(_text(file))
    except (OSError, ValueError):
        return {}


def _text(file: Path) -> str:
    with file.open("rb") as opened:
        return opened.read(_MAX_FILE).decode()


def _parsed(text: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return {kind: entry for kind, entry in document.items() if _is_key(entry)} if isinstance(document, dict) else {}


def _is_key(entry: object) -> bool:
    text = entry.get("key") if isinstance(entry, dict) else None
    return isinstance(text, str) and _KEY.fullmatch(text) is not None


def _expired(entry: dict[str, Any]) -> bool:
    text = str(entry.get("expiration time", ""))
    try:
        # Python 3.10 reads neither "Z" nor more than six digits of a second.
        until = datetime.fromisoformat(text.rstrip("Z")[:26]).replace(tzinfo=timezone.utc)
    except ValueError:
        return False
    return datetime.now(timezone.utc) + _SLACK > until
