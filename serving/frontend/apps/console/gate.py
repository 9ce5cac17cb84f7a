"""Who may use the console: where it is asked from, whose pages, sessions, and the marks that forms carry.

A browser sends its cookies along whoever made the page that asks. So every form carries a mark that only a page of this
console can know, the cookie is for this site alone, and nobody can put these pages into a frame. Without keys the
console answers this machine alone, by its own names.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from http.cookies import CookieError, SimpleCookie
from typing import Any, Final

from serving.frontend.apps.console.beside import PATH
from serving.frontend.apps.routing import is_loopback, refuse_pages
from serving.frontend.errors import ForbiddenError

#: Field of a form, and header of a script's request, with the mark.
MARK: Final = "mark"
#: In a request's scope, the session that it belongs to.
SESSION: Final = "torchmar.session"
#: Sessions that are kept: the oldest goes.
MOST_SESSIONS: Final = 1000
_SESSION_BYTES: Final = 32
_ID_CHARS: Final = len(secrets.token_urlsafe(_SESSION_BYTES))
#: Of every response. Nothing in a page is inline, but for pictures that the page itself has made.
HEADERS: Final = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        b"media-src 'self' data: blob:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; "
        b"base-uri 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)

#: Says whether a key is the one of the management API.
IsKey = Callable[[str], Awaitable[bool]]


class Session:
    """Who asks.

    Attributes:
        id: what the cookie says.
        new: whether the cookie is to be set.
        mark: that forms must carry.
        key: with which somebody has come in; empty once it is not good any more, None for nobody.
    """

    __slots__ = ("id", "key", "mark", "new")

    def __init__(self, session_id: str, mark: str, key: str | None, *, new: bool) -> None:
        self.id, self.mark, self.key, self.new = session_id, mark, key, new


class Gate:
    """Lets requests in.

    Args:
        is_key: whether a text is the key; None where requests need none.
    """

    def __init__(self, is_key: IsKey | None) -> None:
        self._is_key = is_key
        self._secret = secrets.token_bytes(_SESSION_BYTES)
        self._keys: OrderedDict[str, str] = OrderedDict()

    @property
    def keyed(self) -> bool:
        """Whether one must come in with a key."""
        return self._is_key is not None

    def refuse_others(self, scope: Mapping[str, Any], headers: Mapping[bytes, bytes]) -> None:
        """Refuse what does not come from this machine where there are no keys, and what another page sends.

        Raises:
            ForbiddenError: it is refused.
        """
        server = (scope.get("server") or ("", None))[0]
        if not self.keyed and not is_loopback(server or ""):
            raise ForbiddenError(
                "without keys the console is for this machine alone; let requests need a key: "
                "disable_token_authorization=false"
            )
        refuse_pages(scope, headers, None, keyed=self.keyed)
        # Other pages of this machine are not the console's either.
        origin, host = headers.get(b"origin"), headers.get(b"host", b"")
        if origin is not None and origin.partition(b"://")[2] != host:
            raise ForbiddenError(f"a page of {origin.decode('latin-1')} may not do this")
        if headers.get(b"sec-fetch-site", b"same-origin") == b"cross-site" and scope["method"] not in ("GET", "HEAD"):
            raise ForbiddenError("a page of another site may not do this")

    def session(self, scope: Mapping[str, Any], headers: Mapping[bytes, bytes]) -> Session:
        """Return the session that a request belongs to, or a new one."""
        name, found = cookie_name(scope), ""
        try:
            cookie = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1")).get(name)
            found = cookie.value if cookie else ""
        except CookieError:
            pass
        known = len(found) == _ID_CHARS and found.isascii()
        session_id = found if known else _new_id()
        return Session(session_id, self._mark(session_id), self._keys.get(session_id), new=not known)

    async def is_in(self, session: Session) -> bool:
        """Return whether a session may see the console: its key is still good, or none is needed."""
        if self._is_key is None:
            return True
        key = self._keys.get(session.id)
        if key and await self._is_key(key):
            return True
        if session.id in self._keys:
            self._keys[session.id] = ""  # so that the login can say why one is there again
        return False

    async def come_in(self, session: Session, key: str) -> Session | None:
        """Begin a session with a key: with a new id, so that nobody knows it from before; None for a wrong key."""
        if self._is_key is None or not await self._is_key(key):
            return None
        self.leave(session)
        new = _new_id()
        self._keys[new] = key
        while len(self._keys) > MOST_SESSIONS:
            self._keys.popitem(last=False)
        return Session(new, self._mark(new), key, new=True)

    def leave(self, session: Session) -> None:
        """End a session."""
        self._keys.pop(session.id, None)

    def check(self, session: Session, mark: object) -> None:
        """Let a form pass that a page of this session has sent.

        Raises:
            ForbiddenError: it was not.
        """
        if session.new or not isinstance(mark, str) or not hmac.compare_digest(mark.encode(), session.mark.encode()):
            if session.new:
                raise ForbiddenError("this form came without its cookie: load the page again, and let it keep one")
            raise ForbiddenError("this form is of a session that has ended: load its page again, and send it there")

    def _mark(self, session_id: str) -> str:
        return hmac.new(self._secret, session_id.encode(), hashlib.sha256).hexdigest()


def cookie_name(scope: Mapping[str, Any]) -> str:
    """Return the name of the cookie; ports of one machine share their cookies, so each has its own."""
    port = (scope.get("server") or ("", None))[1]
    return f"torchmar_console_{port or 0}"


def set_cookie(scope: Mapping[str, Any], session: Session) -> bytes:
    """Return the header's value that gives a session to a browser, until that is closed."""
    secure = "; Secure" if scope.get("scheme") == "https" else ""
    return f"{cookie_name(scope)}={session.id}; Path={PATH}; HttpOnly; SameSite=Strict{secure}".encode()


def _new_id() -> str:
    return secrets.token_urlsafe(_SESSION_BYTES)
