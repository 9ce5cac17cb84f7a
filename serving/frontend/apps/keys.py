"""Keys of the token authorization: made, checked and renewed as TorchServe does (contract 5.3).

`serving.control.keys` reads the file that is written here.
"""

from __future__ import annotations

import hmac
import json
import os
import re
import secrets
import tempfile
import threading
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Final, Literal, TypeAlias

from serving.frontend.errors import ConflictError, InternalError, InvalidKeyError

Kind: TypeAlias = Literal["inference", "management", "API"]

FAILED: Final = "Token Authorization failed. Token either incorrect, expired, or not provided correctly"
RENEWAL_FAILED: Final = "Token Authentication failed. Token either incorrect, expired, or not provided correctly"
_BEARER = re.compile(r"Bearer\s+(\S+)")
_BYTES: Final = 32
_NEVER: Final = datetime.max.replace(tzinfo=timezone.utc)


class Keys:
    """The keys of a server: one for each API that expires, and one that renews those."""

    def __init__(self, file: Path, minutes: float, given: Mapping[str, str] | None = None) -> None:
        """Make them, and write them down.

        Args:
            file: of the keys; for its owner alone.
            minutes: that those of the APIs are good for.
            given: keys of the user's own by their APIs, which never expire.

        Raises:
            OSError: the file cannot be written.
        """
        self._file, self._lifetime = file, timedelta(minutes=minutes)
        self._lock = threading.Lock()
        self._keys = {"API": _new()}
        self._expires: dict[str, datetime] = {}
        self._given = given or {}
        for kind in ("management", "inference"):
            own = self._given.get(kind)
            self._keys[kind], self._expires[kind] = (own, _NEVER) if own else (_new(), self._expiration())
        self._write(self._keys, self._expires)

    def check(self, kind: Kind, authorization: str) -> None:
        """Let a request pass that has the key.

        Args:
            authorization: its header.

        Raises:
            InvalidKeyError: it has not, or the key has expired.
        """
        if not self._is_good(kind, authorization):
            raise InvalidKeyError(FAILED)

    def renew(self, authorization: str, kind: str) -> None:
        """Make a new key for an API, and write it down; the one before is good no more. Waits for the disk.

        Args:
            authorization: header with the API key.
            kind: ``inference`` or ``management``.

        Raises:
            InvalidKeyError: the API key is not there, or there is no such kind.
            ConflictError: it was given to the server.
            InternalError: the file cannot be written.
        """
        if not self._is_good("API", authorization) or kind not in self._expires:
            raise InvalidKeyError(RENEWAL_FAILED)
        if kind in self._given:
            raise ConflictError(f"the {kind} key was given to the server at its start; only who gave it can change it")
        with self._lock:
            keys = self._keys | {kind: _new()}
            expires = self._expires | {kind: self._expiration()}
            try:
                self._write(keys, expires)
            except OSError as error:
                raise InternalError(f"the key file cannot be written: {error.strerror}") from error
            self._keys, self._expires = keys, expires

    def current(self, kind: Literal["inference", "management"]) -> str:
        """Return the key of an API, for who may have it; an expired one is renewed first. Waits for the disk.

        Raises:
            InternalError: the file cannot be written.
        """
        if datetime.now(timezone.utc) >= self._expires[kind]:
            self.renew(f"Bearer {self._keys['API']}", kind)
        return self._keys[kind]

    def _is_good(self, kind: Kind, authorization: str) -> bool:
        found = _BEARER.fullmatch(authorization)
        given = found[1] if found else ""
        same = hmac.compare_digest(given.encode(), self._keys[kind].encode())
        expires = self._expires.get(kind)
        return same and (expires is None or datetime.now(timezone.utc) < expires)

    def _expiration(self) -> datetime:
        try:
            return datetime.now(timezone.utc) + self._lifetime
        except OverflowError:
            return _NEVER

    def _write(self, keys: dict[str, str], expires: dict[str, datetime]) -> None:
        document = {
            kind: {"key": keys[kind], "expiration time": f"{expires[kind]:%Y-%m-%dT%H:%M:%S.%f}Z"}
            for kind in ("management", "inference")
        }
        text = json.dumps(document | {"API": {"key": keys["API"]}}, indent=2)
        # Made for its owner alone before a key is in it, and never half a file.
        number, name = tempfile.mkstemp(prefix=".key_file", dir=self._file.parent)
        try:
            with os.fdopen(number, "w", encoding="utf-8") as opened:
                opened.write(text)
            Path(name).replace(self._file)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def _new() -> str:
    return secrets.token_urlsafe(_BYTES)
