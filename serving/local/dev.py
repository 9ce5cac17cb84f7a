"""The development server: a model is served while it is being written, and what is saved is what answers."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from archive_tool.errors import TorchmarError
from serving.check.run import device_index
from serving.local.reloading import Reloading, Tell
from serving.local.sources import Sources
from serving.local.web import listening

_POLL_S = 0.3
_POLL_SHARE = 10


@dataclass(frozen=True)
class DevOptions:
    """What to serve.

    Attributes:
        target: a handler's file, a project file, or a folder with a project file or a manifest.
        port: on the loopback interface; 0 for a free one.
        device: "cpu" or "cuda:N".
        given: options of `archive_tool.build` that say which files the model has, beside those of a project file.
    """

    target: Path
    port: int = 8080
    device: str = "cpu"
    given: Mapping[str, Any] = field(default_factory=dict)


def serve(options: DevOptions, tell: Tell, ready: Callable[[str, str], None] = lambda *_: None) -> None:
    """Serve until an exception ends it, such as the one of a signal; then nothing of it is left.

    Args:
        options: what to serve.
        tell: gets what happens, and every line that the handler prints; called by several threads.
        ready: gets the address and the model's name, once requests are answered. The model may still be loading: they
            wait for it.

    Raises:
        InputError: there is nothing to serve.
        PortInUseError: the port is taken.
    """
    sources = Sources(options.target, options.given)
    gpu = device_index(options.device)
    with (
        tempfile.TemporaryDirectory(prefix="torchmar-dev-", ignore_cleanup_errors=True) as root,
        Reloading(sources, Path(root), gpu=gpu, tell=tell) as model,
        listening(model, options.port, tell) as address,
    ):
        ready(address, _name(sources))
        while True:
            model.refresh()
            # With very many files the looking must not keep a core busy; a request looks by itself.
            time.sleep(max(_POLL_S, _POLL_SHARE * model.look_s))


def _name(sources: Sources) -> str:
    try:
        return sources.model_name()
    except (TorchmarError, OSError, ValueError):
        return "NAME"  # what is wrong is reported when it is loaded
