"""Where a request goes: segments of its path, names of models that routes need, pages in a browser that are refused."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from serving.frontend.errors import ForbiddenError

# In TorchServe's words.
NO_ROUTE: Final = "Requested resource is not found, please refer to API document."
NO_METHOD: Final = "Requested method is not allowed, please refer to API document."
NO_WORKFLOWS: Final = "workflows are not served here; torchmar start --frontend java serves them"

#: First segments that routes need where all APIs share one port; no model can have such a name there.
RESERVED: Final = frozenset(
    {
        "api-description",
        "console",
        "explanations",
        "invocations",
        "livez",
        "metrics",
        "models",
        "ping",
        "predictions",
        "readyz",
    }
    | {"token", "v1", "v2", "wfpredict", "workflows"}
)


def segments_of(path: str) -> list[str]:
    """Split a path as TorchServe does: without the empty ones at its end."""
    found = path.split("/")[1:]
    while found and not found[-1]:
        found.pop()
    return found


def refuse_pages(scope: Mapping[str, Any], headers: Mapping[bytes, bytes], allowed: str | None, *, keyed: bool) -> None:
    """Refuse what a page in a browser sends that is not of this server: it acts with its reader's rights.

    Args:
        allowed: ``cors_allowed_origin``; pages from there are welcome.
        keyed: whether requests need a key; a page whose own name leads to this machine has none.

    Raises:
        ForbiddenError: it is such a page.
    """
    server = (scope.get("server") or ("", None))[0]
    local = is_loopback(server)
    host = headers.get(b"host", b"").decode("latin-1")
    if (given := headers.get(b"origin")) is not None:
        origin = given.decode("latin-1")
        known = allowed is not None and (allowed == "*" or origin in (one.strip() for one in allowed.split(",")))
        own = is_loopback(_name(origin)) if local else origin.partition("://")[2] == host != ""
        if not (known or own):
            raise ForbiddenError(
                f"a page of {origin} may not do this; set cors_allowed_origin in config.properties to let it"
            )
    if local and not keyed and host and not is_loopback(_name(f"//{host}")):
        raise ForbiddenError(
            f"the Host of this request is {host}, which is not this machine; "
            "ask localhost, or let requests need a key: disable_token_authorization=false"
        )


def _name(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Return whether a name or number is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.removeprefix("::ffff:")).is_loopback
    except ValueError:
        return False
