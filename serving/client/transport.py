"""The only exit for requests: ``Transport.request``.

The APIs are pure functions around it; a test that needs a fake replaces only this class. httpx is imported when one is
made: it takes a tenth of a second, in which `torchmar start` has begun a server.
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, urlsplit

from archive_tool.errors import InputError
from archive_tool.metadata.names import MODEL_NAME_HINT, shown_name
from serving.errors import INVALID_KEY, NotRunningError, ReplyError, ServingError

if TYPE_CHECKING:
    import httpx

CONNECT_TIMEOUT_S = 5.0
#: Names of headers: a token (RFC 9110, 5.6.2).
HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_KEY_HINT = "name the key in TORCHMAR_TOKEN or with --token-file; torchmar keys shows those of a server that it started"
_TOO_LARGE = 413


@dataclass(frozen=True)
class Address:
    """Where a server listens, in TorchServe's notation: ``http://host:port``, ``https://...`` or ``unix:/path``."""

    text: str

    def __post_init__(self) -> None:
        if not self.text.startswith(("http://", "https://", "unix:/")):
            raise ServingError(
                f"not an address: {self.text!r}",
                hint="write http://HOST:PORT, https://HOST:PORT or unix:/PATH, as in config.properties",
            )

    @property
    def socket_path(self) -> str | None:
        """Path of the unix socket, if this is one."""
        return self.text[len("unix:") :] if self.text.startswith("unix:") else None

    @property
    def base_url(self) -> str:
        """URL that paths are appended to."""
        return "http://localhost" if self.socket_path else self.text.rstrip("/")

    @property
    def host(self) -> str:
        """Host name or number, without brackets; ``localhost`` for a unix socket."""
        return urlsplit(self.base_url).hostname or ""

    @property
    def port(self) -> int | None:
        """TCP port; None for a unix socket."""
        if self.socket_path:
            return None
        parts = urlsplit(self.text)
        default = 443 if parts.scheme == "https" else 80
        return default if parts.port is None else parts.port

    @property
    def encrypted(self) -> bool:
        """Whether connections use TLS."""
        return self.text.startswith("https://")

    @property
    def authorities(self) -> str | None:
        """File with the certificates that the server's must lead to; None for whichever it has.

        A server's self-signed certificate is the rule on loopback and proves nothing there.
        """
        if self.host in ("localhost", "127.0.0.1", "::1"):
            return None
        import certifi

        return certifi.where()


def model_path(kind: str, name: str, version: str | None) -> str:
    """Return the path of a model, or of a version of it.

    Args:
        kind: what the path begins with, such as ``predictions``.
        name: of the model.
        version: of it; None or empty for none.

    Raises:
        InputError: no address can hold one of them.
    """
    path = f"/{kind}/{segment(name, 'model name')}"
    return f"{path}/{segment(version, 'version')}" if version else path


def segment(text: str, what: str) -> str:
    """Encode a name as a segment of a URL's path.

    Args:
        text: the name.
        what: kind of name, for the message.

    Raises:
        InputError: no address can hold it: the server reads an encoded slash as a separator.
    """
    speakable = (
        text not in ("", ".", "..") and "/" not in text and not any("\ud800" <= char <= "\udfff" for char in text)
    )
    if not speakable:
        raise InputError(f"the {what} {shown_name(text)} cannot stand in an address", hint=MODEL_NAME_HINT)
    return quote(text, safe="")


@dataclass(frozen=True)
class Reply:
    """One HTTP answer.

    Attributes:
        status: HTTP status.
        headers: with lower-case names.
        body: raw bytes.
        seconds: from the first byte sent to the last byte received.
    """

    status: int
    headers: dict[str, str]
    body: bytes
    seconds: float

    @property
    def content_type(self) -> str:
        """MIME type without parameters, lower case; empty if the server named none."""
        return self.headers.get("content-type", "").split(";")[0].strip().lower()

    def json(self) -> Any:
        """Return the body as JSON.

        Raises:
            ReplyError: the body is not JSON.
        """
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            text = self.body[:200].decode("utf-8", "replace")
            raise ReplyError(f"the server's answer is not JSON: {text!r}", status=self.status) from error


def error_of(reply: Reply, where: str) -> ReplyError:
    """Return the server's own message from an error reply (``{code, type, message}``, TorchServe's REST contract)."""
    message, kind = "", ""
    try:
        document = json.loads(reply.body)
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict):
        message = str(document.get("message", ""))
        kind = str(document.get("type", ""))
    hint = _KEY_HINT if kind == INVALID_KEY else None
    if not message and reply.status == _TOO_LARGE:  # of the frontend, which says nothing; a model's own has a message
        message = "the request is larger than the server's max_request_size allows"
        hint = "raise max_request_size in config.properties, and restart"
    elif not message:
        message = reply.body[:500].decode("utf-8", "replace").strip() or "no message"
    return ReplyError(f"{message} (HTTP {reply.status})", status=reply.status, kind=kind, where=where, hint=hint)


@dataclass
class Transport:
    """A sender of requests to one address over kept-alive connections; safe to share between threads.

    Args:
        address: where the server listens.
        timeout_s: seconds that an answer may take.
        token: key of TorchServe's token authorization, if it is on.
        most: bytes of an answer, which must then be whole within the timeout; None where it may be what a model gives.
    """

    address: Address
    timeout_s: float = 120.0
    token: str | None = None
    connections: int = 32
    most: int | None = None
    _http: httpx.Client = field(init=False, repr=False)

    def __post_init__(self) -> None:
        import httpx

        verify = self.address.authorities is not None
        limits = httpx.Limits(max_connections=self.connections, max_keepalive_connections=self.connections)
        self._http = httpx.Client(
            base_url=self.address.base_url,
            timeout=httpx.Timeout(self.timeout_s, connect=CONNECT_TIMEOUT_S),
            headers={"Authorization": f"Bearer {self.token}"} if self.token else {},
            transport=httpx.HTTPTransport(uds=self.address.socket_path, verify=verify, limits=limits),
            # Proxy variables of the environment must not send local traffic elsewhere.
            trust_env=False,
        )

    def __enter__(self) -> Transport:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, str] | None = None,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """Send one request and read the whole answer, whatever its status.

        Raises:
            NotRunningError: the server does not listen there.
            ReplyError: the answer took longer than the timeout (status 0), is too large, or the connection broke.
        """
        import httpx

        where = f"{method} {self.address.text}{path}"
        try:
            with self._http.stream(method, path, params=params, content=body, headers=headers) as response:
                answer = response.read() if self.most is None else self._bounded(response, self.most, where)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise NotRunningError(
                f"nobody answers at {self.address.text}", where=where, hint="start a server: torchmar start"
            ) from error
        except httpx.TimeoutException as error:
            raise ReplyError(
                f"no answer within {self.timeout_s:g} s",
                status=0,
                where=where,
                hint="allow more with --timeout",
            ) from error
        except httpx.HTTPError as error:
            raise ReplyError(
                f"the connection broke: {error}", status=0, where=where, hint="see the server's log"
            ) from error
        return Reply(
            status=response.status_code,
            headers={key.lower(): value for key, value in response.headers.items()},
            body=answer,
            seconds=response.elapsed.total_seconds(),
        )

    def _bounded(self, response: httpx.Response, most: int, where: str) -> bytes:
        import httpx

        end, body = time.monotonic() + self.timeout_s, bytearray()
        for part in response.iter_bytes():
            body += part
            if len(body) > most:
                raise ReplyError(f"the answer has more than {most} bytes", status=response.status_code, where=where)
            if time.monotonic() > end:
                raise httpx.ReadTimeout("the answer goes on")
        return bytes(body)

    def checked(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, str] | None = None,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """Send one request as `request` does, and raise an error status.

        Raises:
            ReplyError: the status is 400 or more; carries the server's message.
        """
        reply = self.request(method, path, params=params, body=body, headers=headers)
        if reply.status >= 400:
            raise error_of(reply, f"{method} {self.address.text}{path}")
        return reply
