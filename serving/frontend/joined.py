"""One application in place of several, where addresses coincide: the path, and the method, tell whose a request is.

So a model that is called without a prefix (``/NAME/predict``) cannot be named as one of these paths begins. Each
request needs the key of the API that answers it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from typing import Final, Literal

from serving.frontend.entrance import App, Receive, Scope, Send

Api = Literal["inference", "management", "metrics"]
#: In the order in which a request that is nobody's is passed on.
APIS: Final[tuple[Api, ...]] = ("inference", "management", "metrics")

_MANAGEMENT: Final = frozenset({"console", "models", "token", "workflows"})
# Where nothing follows.
_ALONE: Final[Mapping[str, Api]] = {"docs": "management", "metrics": "metrics"}


def api_of(path: str) -> Api:
    """Return the API that a path belongs to, where all of them are asked at one address."""
    segments = path.split("/")
    first = segments[1] if len(segments) > 1 else ""
    if first in _ALONE and len(segments) == 2:
        return _ALONE[first]
    if first in _MANAGEMENT:
        # SageMaker's way to ask a model.
        return "inference" if first == "models" and len(segments) == 4 and segments[3] == "invoke" else "management"
    return "inference"


def joined(apps: Mapping[Api, App]) -> App:
    """Make an application that asks the one of several that a request is for.

    Args:
        apps: that share an address; one of them is asked what belongs to none.
    """
    if len(apps) == 1:
        return next(iter(apps.values()))
    rest = next(apps[api] for api in APIS if api in apps)

    def ask(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        return apps.get(api_of(scope["path"]), rest)(scope, receive, send)

    return ask
