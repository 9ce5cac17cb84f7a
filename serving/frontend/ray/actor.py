"""The registry as an actor, and who asks it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import ray
from ray._common.constants import HEAD_NODE_RESOURCE_NAME
from ray.experimental import internal_kv

from serving.errors import NotRunningError
from serving.frontend.errors import BadRequestError, FrontendError
from serving.frontend.ray import nodes
from serving.frontend.ray.nodes import Archive
from serving.frontend.ray.registry import NAME, NAMESPACE, Known, Registry, ServerInfo
from serving.frontend.ray.specs import Spec

_log: Final = logging.getLogger(__name__)
#: Where HAProxy's socket is unless the environment says otherwise, but for a folder of the node.
RAYS_SOCKET: Final = "/tmp/haproxy-serve/admin.sock"  # noqa: S108 (Ray makes it)
_KEY: Final = b"registry"
# The head node has as much of it as nobody ever asks for.
_ON_HEAD: Final = {HEAD_NODE_RESOURCE_NAME: 0.001}


class _Kept:
    """Ray's own key-value store, which lives as long as the cluster."""

    def get(self) -> bytes | None:
        found: bytes | None = internal_kv._internal_kv_get(_KEY, namespace=NAMESPACE)
        return found

    def put(self, value: bytes) -> None:
        internal_kv._internal_kv_put(_KEY, value, namespace=NAMESPACE)


def close_proxy() -> None:
    """Let nobody else reach HAProxy of this node by its sockets: who writes to them can change where requests go.

    Ray makes them for everybody. It has HAProxy on the head node, where the registry is, and where replicas are.
    """
    if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1":
        socket = Path(os.environ.get("RAY_SERVE_HAPROXY_SOCKET_PATH", RAYS_SOCKET))
        folder = socket.parent / ray.get_runtime_context().get_node_id()
        if not nodes.close(folder):
            _log.warning("%s is not this user's alone: others can have HAProxy send them requests and keys", folder)


class _Actor(Registry):
    def __init__(self) -> None:
        close_proxy()
        super().__init__(_Kept())

    def forget(self) -> None:
        """Forget everything: the next actor of the name begins anew."""
        internal_kv._internal_kv_del(_KEY, namespace=NAMESPACE)


class RegistryClient:
    """The registry, from anywhere in the cluster. Every method waits.

    Raises:
        NotRunningError: there is none.
    """

    def __init__(self) -> None:
        try:
            self._actor: Any = ray.get_actor(NAME, namespace=NAMESPACE)
        except ValueError:
            raise NotRunningError("nothing of torchmar's is deployed to this cluster") from None

    @classmethod
    def made(cls) -> RegistryClient:
        """Return it, made if it was not there."""
        ray.remote(_Actor).options(
            name=NAME,
            namespace=NAMESPACE,
            lifetime="detached",
            get_if_exists=True,
            max_restarts=-1,
            max_task_retries=-1,
            num_cpus=0,
            resources=_ON_HEAD,
        ).remote()
        return cls()

    def info(self) -> ServerInfo:
        """Return what replicas must know."""
        return self._asked("info")  # type: ignore[no-any-return]

    def set_info(self, info: ServerInfo) -> None:
        """Take what replicas must know from now on."""
        self._asked("set_info", info)

    def models(self) -> Mapping[str, Known]:
        """Return all models, by name."""
        return self._asked("models")  # type: ignore[no-any-return]

    def save(self, name: str, known: Known | None) -> None:
        """Take what a model is from now on."""
        self._asked("save", name, known)

    def join(self, spec: Spec, default: bool) -> None:
        """Take a version beside those that its model has."""
        self._asked("join", spec, default)

    def read(self, sha256: str, place: int, most: int) -> bytes:
        """Return a piece of an archive."""
        return self._asked("read", sha256, place, most)  # type: ignore[no-any-return]

    def put(self, path: Path, sha256: str | None = None) -> Archive:
        """Take an archive of this machine, piece by piece.

        Args:
            path: of it.
            sha256: what it must be; None for whatever is there.

        Raises:
            BadRequestError: it cannot be read, or is another one.
            InternalError: the head node cannot store it.
        """
        archive = nodes.look(path)
        if sha256 not in (None, archive.sha256):
            raise BadRequestError(f"{path} is not the archive that was asked for: its SHA-256 differs")
        if not self._asked("has", archive):
            place = 0
            with path.open("rb") as source:
                while piece := source.read(nodes.PIECE):
                    self._asked("write", archive, place, piece)
                    place += len(piece)
        return archive

    def end(self) -> None:
        """Forget everything, and end."""
        self._asked("forget")
        ray.kill(self._actor)

    def _asked(self, method: str, *arguments: Any) -> Any:
        try:
            return ray.get(getattr(self._actor, method).remote(*arguments))
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, FrontendError):
                raise error.cause from None
            raise
