"""Start, watch and stop of a server: TorchServe's Java frontend and the workers under it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from serving.control.configuration.config import ModelSpec
    from serving.control.preparing import StartOptions
    from serving.control.server import start, stop
    from serving.control.state import ServerRecord, StateFolder

__all__ = ["ModelSpec", "ServerRecord", "StartOptions", "StateFolder", "start", "stop"]

# Loaded on first use: a frontend takes a few modules of this room when it starts, and none that starts a server.
_LAZY = {
    "ModelSpec": "serving.control.configuration.config",
    "ServerRecord": "serving.control.state",
    "StartOptions": "serving.control.preparing",
    "StateFolder": "serving.control.state",
    "start": "serving.control.server",
    "stop": "serving.control.server",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
