"""Where a request goes: segments of its path, the application behind one port, pages in a browser that are refused."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable, Mapping, MutableMapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from serving.frontend.errors import ForbiddenError

# In TorchServe's words.
NO_ROUTE: Final = "Requested resource is not found, please refer to API document."
NO_METHOD: Final = "Requested method is not allowed, please refer to API document."
NO_WORKFLOWS: Final = "workflows are not served here; torchmar start --frontend java serves them"

#: First segments that routes need where all APIs share one port; no model can have such a name there.
RESERVED: Final = frozenset(
    {"api-description", "explanations", "invocations", "livez", "metrics", "models", "ping", "predictions", "readyz"}
    | {"token", "v1", "v2", "wfpredict", "workflows"}
)
_MANAGEMENT: Final = frozenset({"models", "token", "workflows"})


def segments_of(path: str) -> list[str]:
    """Split a path as TorchServe does: without the empty ones at its end."""
    found = path.split("/")[1:]
    while found and not found[-1]:
        found.pop()
    return found


def is_management(segments: Sequence[str]) -> bool:
    """Whether a request belongs to the management API, where one port has them all."""
    if not segments:
        return False
    if segments[0] == "models":
        return not (len(segments) == 3 and segments[2] == "invoke")
    if segments[:2] == ["v1", "models"]:
        return len(segments) == 3 and ":" not in segments[2]
    return segments[0] in _MANAGEMENT


def single_port(
    inference: Callable[..., Awaitable[None]],
    management: Callable[..., Awaitable[None]],
    metrics: Callable[..., Awaitable[None]] | None,
) -> Callable[..., Awaitable[None]]:
    """All APIs at one address; each asks for its own key.

    Args:
        metrics: None where the metrics API is off.
    """

    async def app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        segments = segments_of(scope.get("path", ""))
        chosen = inference
        if segments == ["metrics"] and metrics is not None:
            chosen = metrics
        elif is_management(segments):
            chosen = management
        await chosen(scope, receive, send)

    return app


def refuse_pages(scope: Mapping[str, Any], headers: Mapping[bytes, bytes], allowed: str | None, *, keyed: bool) -> None:
    """Refuse what a page in a browser sends that is not of this server: it acts with its reader's rights.

    Args:
        allowed: ``cors_allowed_origin``; pages from there are welcome.
        keyed: whether requests need a key; a page whose own name leads to this machine has none.

    Raises:
        ForbiddenError: it is such a page.
    """
    server = (scope.get("server") or ("", None))[0]
    local = _is_loopback(server)
    host = headers.get(b"host", b"").decode("latin-1")
    if (given := headers.get(b"origin")) is not None:
        origin = given.decode("latin-1")
        known = allowed is not None and (allowed == "*" or origin in (one.strip() for one in allowed.split(",")))
        own = _is_loopback(_name(origin)) if local else origin.partition("://")[2] == host != ""
        if not (known or own):
            raise ForbiddenError(
                f"a page of {origin} may not do this; set cors_allowed_origin in config.properties to let it"
            )
    if local and not keyed and host and not _is_loopback(_name(f"//{host}")):
        raise ForbiddenError(
            f"the Host of this request is {host}, which is not this machine; "
            "ask localhost, or let requests need a key: disable_token_authorization=false"
        )


def _name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("::ffff:")).is_loopback
    except ValueError:
        return False
