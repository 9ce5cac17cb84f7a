"""The Open Inference Protocol's paths below ``/v2``: metadata, health, and which model is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from serving.frontend.engine import Answering
from serving.frontend.settings import Settings

_EXTENSIONS: Final = ["kserve", "kubeflow"]


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked.

    Attributes:
        action: ``server``, ``live``, ``ready`` of the server, ``metadata``, ``model-ready``, ``infer``, ``explain``.
        name: of the model; empty where the server is asked.
        version: of it; None for the default one.
    """

    action: str
    name: str = ""
    version: str | None = None


def target_of(segments: Sequence[str]) -> Target | None:
    """Understand what a path asks; None where it is none of the protocol's.

    Args:
        segments: behind ``v2``.
    """
    match list(segments):
        case []:
            return Target("server")
        case ["health", "live" | "ready" as action]:
            return Target(action)
        case ["models", name]:
            return Target("metadata", name)
        case ["models", name, "versions", version]:
            return Target("metadata", name, version)
        case ["models", name, "ready"]:
            return Target("model-ready", name)
        case ["models", name, "versions", version, "ready"]:
            return Target("model-ready", name, version)
        case ["models", name, "infer" | "explain" as action]:
            return Target(action, name.partition(":")[0])
        case ["models", name, "versions", version, "infer" | "explain" as action]:
            return Target(action, name, version)
    return None


def document_of(engine: Answering, target: Target, server_version: str) -> tuple[dict[str, Any], int]:
    """Return what is answered, and the status.

    Raises:
        ModelNotFoundError, VersionNotFoundError: nothing of that name.
    """
    match target.action:
        case "server":
            # "extenstion" is how TorchServe writes it.
            about = {"name": "Torchserve", "version": server_version}
            return about | {"extenstion": _EXTENSIONS, "extensions": _EXTENSIONS}, 200
        case "live":
            return {"live": True}, 200
        case "ready":
            return {"ready": engine.ready}, 200 if engine.ready else 503
    states = engine.describe(target.name, target.version)
    if target.action == "model-ready":
        ready = any(worker.ready for worker in states[0].workers)
        return {"name": target.name, "ready": ready}, 200 if ready else 503
    versions = [state.version for state in engine.describe(target.name, "all")]
    return {"name": target.name, "versions": versions, "platform": "pytorch", "inputs": [], "outputs": []}, 200


def version_of(settings: Settings) -> str:
    """Return the version that the server says it has: that of TorchServe whose APIs these are."""
    try:
        return (settings.place.home / "ts" / "version.txt").read_text(encoding="utf-8").strip()
    except OSError:
        return "unknown"
