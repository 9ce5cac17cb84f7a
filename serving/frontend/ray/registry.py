"""What outlives every replica: the server's settings, which versions there are, the archives' bytes.

An actor of that name on the head node. It is asked when a replica starts and when models are changed; no prediction
waits for it. What it knows lies in Ray's own key-value store, too, so that it knows it again when it is started anew;
the bytes lie on the head node's disk.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

from archive_tool.version import __version__
from serving.frontend.errors import InternalError, ModelError
from serving.frontend.ray import nodes
from serving.frontend.ray.nodes import Archive
from serving.frontend.ray.specs import Resources, Spec, digest

#: Name and namespace of the actor.
NAME: Final = "torchmar"
NAMESPACE: Final = "torchmar"
_WORKERS: Final = "default_workers_per_model"


@dataclass(frozen=True)
class ServerInfo:
    """What every replica must know of the server.

    Attributes:
        properties: of the configuration.
        keys: that requests need, by their APIs; empty where they need none.
        signature_key: public key in PEM that archives must be signed with; empty for none.
        resources: of each replica of a version.
        name: of the server; empty for one of a Serve config.
        model_store: folder of archives that can be registered by their names, where nodes see it.
        home: the ``model_server_home`` of replicas, where they have it; empty for ours.
    """

    properties: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    signature_key: bytes = b""
    resources: Resources = field(default_factory=Resources)
    name: str = ""
    model_store: str = ""
    home: str = ""

    @property
    def digest(self) -> str:
        """What differs where replicas must be started anew."""
        # How many replicas there are to be is nothing that they are made of.
        properties = {key: value for key, value in self.properties.items() if key != _WORKERS}
        return digest(__version__, properties, dict(self.keys), self.signature_key, self.home)

    @property
    def of_front(self) -> str:
        """What differs where the front must be started anew."""
        return digest(self.digest, asdict(self.resources), self.model_store, self.properties.get(_WORKERS))


@dataclass(frozen=True)
class Known:
    """The versions of a model.

    Attributes:
        default: version that requests go to which name none.
        versions: by version.
        traffic: shares of the others, by version, as a snapshot has them.
    """

    default: str
    versions: Mapping[str, Spec]
    traffic: Mapping[str, Any] = field(default_factory=dict)


class Kept(Protocol):
    """Keeps bytes for the actor that comes after this one."""

    def get(self) -> bytes | None:
        """Return them; None where there are none."""

    def put(self, value: bytes) -> None:
        """Keep them."""


class Registry:
    """See the module.

    Args:
        kept: where it all is kept.
    """

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._held: dict[str, nodes.Held] = {}
        text = kept.get()
        # Written by this class alone, to where only those write who can run code in the cluster anyway.
        self._info, self._models = pickle.loads(text) if text else (ServerInfo(), {})  # noqa: S301
        for known in self._models.values():
            for spec in known.versions.values():
                self._hold(spec.archive.sha256)

    def _write(self) -> None:
        self._kept.put(pickle.dumps((self._info, self._models)))

    # ---- the server --------------------------------------------------------------------------------------------------

    def info(self) -> ServerInfo:
        """Return what replicas must know."""
        found: ServerInfo = self._info
        return found

    def set_info(self, info: ServerInfo) -> None:
        """Take what replicas must know from now on."""
        self._info = info
        self._write()

    # ---- models ------------------------------------------------------------------------------------------------------

    def models(self) -> dict[str, Known]:
        """Return all of them, by name."""
        return dict(self._models)

    def save(self, name: str, known: Known | None) -> None:
        """Take what a model is from now on; None for one that is gone."""
        if known is None:
            self._models.pop(name, None)
        else:
            self._models[name] = known
        self._write()
        self._release_unused()

    def join(self, spec: Spec, default: bool) -> None:
        """Take a version beside those that its model has; the first one is the default one."""
        before = self._models.get(spec.name) or Known(spec.version, {})
        known = replace(before, versions={**before.versions, spec.version: spec})
        self.save(spec.name, replace(known, default=spec.version) if default else known)

    # ---- archives ----------------------------------------------------------------------------------------------------

    def has(self, archive: Archive) -> bool:
        """Whether the whole of an archive is here."""
        self._hold(archive.sha256)
        path = self._path(archive.sha256)
        return path.is_file() and path.stat().st_size == archive.size

    def write(self, archive: Archive, place: int, piece: bytes) -> None:
        """Take a piece of an archive; the last one completes it.

        Raises:
            InternalError: it does not fit where it is to go, or on the disk.
        """
        self._hold(archive.sha256)
        path = self._path(archive.sha256)
        part = path.with_name("part")
        try:
            path.parent.mkdir(mode=0o700, exist_ok=True)
            with part.open("wb" if place == 0 else "r+b") as target:
                if target.seek(0, os.SEEK_END) != place or place + len(piece) > archive.size:
                    raise InternalError(f"{archive.name}: a piece of it does not follow the one before")
                target.write(piece)
            if place + len(piece) == archive.size:
                part.replace(path)
        except OSError as error:
            raise InternalError(f"{archive.name} cannot be stored on the head node: {error.strerror}") from error

    def read(self, sha256: str, place: int, most: int) -> bytes:
        """Return a piece of an archive.

        Raises:
            ModelError: it is not here.
        """
        try:
            with self._path(sha256).open("rb") as source:
                source.seek(place)
                return source.read(min(most, nodes.PIECE))
        except OSError as error:
            raise ModelError(
                "the archive is not on the head node any more, which has been replaced: deploy it again"
            ) from error

    def _path(self, sha256: str) -> Path:
        return nodes.root() / sha256 / "archive" / "file"

    def _hold(self, sha256: str) -> None:
        if sha256 not in self._held:
            self._held[sha256] = nodes.hold(sha256)

    def _release_unused(self) -> None:
        used = {spec.archive.sha256 for known in self._models.values() for spec in known.versions.values()}
        for sha256 in self._held.keys() - used:
            self._held.pop(sha256).release()
