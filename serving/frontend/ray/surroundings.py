"""What the engine stands on: how Ray Serve and the registry look to it, and what a replica tells it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from serving.frontend.engine import Answer, Call
from serving.frontend.errors import FrontendError
from serving.frontend.ray.nodes import Archive
from serving.frontend.ray.registry import Known
from serving.frontend.ray.specs import Spec


@dataclass(frozen=True)
class Running:
    """A replica as Ray Serve knows it.

    Attributes:
        started: seconds since the epoch.
        ready: whether it is asked.
        pid: of its process, on its node; -1 until it is known.
    """

    started: float
    ready: bool
    pid: int


@dataclass(frozen=True)
class AppState:
    """An application as Ray Serve knows it.

    Attributes:
        running: whether all that was asked of it is done.
        failed: whether it will not come to that.
        message: why.
        route: where it is asked; empty for an application that is not there.
        replicas: of it.
    """

    running: bool = False
    failed: bool = False
    message: str = ""
    route: str = ""
    replicas: tuple[Running, ...] = ()

    @property
    def ready(self) -> int:
        """How many replicas are asked."""
        return sum(replica.ready for replica in self.replicas)


class LostReplicaError(Exception):
    """A replica has died before it has answered."""


class Cluster(Protocol):
    """Ray Serve. All but `ask` waits, and is called in a thread."""

    def deploy(self, spec: Spec, route: str, code: str) -> None:
        """Have a version's application be so; replicas of the same code stay.

        Raises:
            FrontendError: it cannot be.
        """

    def delete(self, application: str, grace_s: float) -> bool:
        """End an application once it has answered what it took; say whether it has ended in time."""

    def states(self) -> Mapping[str, AppState]:
        """Return all applications by their names."""

    def heard(self, routes: Mapping[str, str]) -> bool:
        """Return whether every proxy that can be asked from here sends requests so.

        Args:
            routes: applications, by their routes.
        """

    def ask(self, spec: Spec, call: Call, remaining_s: float | None) -> AsyncGenerator[Mapping[str, Any], None]:
        """Ask a replica: what `Replica.asked` yields.

        Raises:
            LostReplicaError: it has died.
        """


class Registry(Protocol):
    """`serving.frontend.ray.registry.Registry`, wherever it is. It waits, and is called in a thread."""

    def models(self) -> Mapping[str, Known]:
        """Return all models, by name."""

    def save(self, name: str, known: Known | None) -> None:
        """Take what a model is from now on."""

    def read(self, sha256: str, place: int, most: int) -> bytes:
        """Return a piece of an archive."""

    def put(self, path: Path) -> Archive:
        """Take an archive of this machine."""


def answered(answer: Answer) -> Mapping[str, Any]:
    """Write an answer, without its rest, so that another process can read it."""
    return {"answer": replace(answer, body=bytes(answer.body), rest=None), "streams": answer.rest is not None}


def failed(error: FrontendError) -> Mapping[str, Any]:
    """Write an error so that another process can read it."""
    return {"error": type(error), "message": error.message, "status": error.status, "headers": error.headers}


def error_of(item: Mapping[str, Any]) -> FrontendError:
    """Read an error that another process has written."""
    error: FrontendError = item["error"](item["message"])
    error.status, error.headers = item["status"], item["headers"]
    return error
