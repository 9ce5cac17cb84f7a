"""Names, versions and defaults of models, by TorchServe's rules and texts (ModelVersionedRefs.java, ApiUtils.java)."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from serving.frontend.engine import Share
from serving.frontend.errors import (
    BadRequestError,
    ConflictError,
    ModelError,
    ModelNotFoundError,
    NotAllowedError,
    VersionNotFoundError,
)
from serving.frontend.versions.traffic import Traffic

V = TypeVar("V")


@dataclass
class _Versions(Generic[V]):
    """The versions of one model; there is always a default one among them."""

    default: str
    by_version: dict[str, V] = field(default_factory=dict)


class Table(Generic[V]):
    """What is registered. Knows nothing of what a version is.

    Args:
        reserved: names that no model can have, since routes begin with them.

    Attributes:
        traffic: of each model some of whose versions have a share of the requests that name none.
    """

    def __init__(self, reserved: Collection[str] = ()) -> None:
        self._reserved = reserved
        self._models: dict[str, _Versions[V]] = {}
        self.traffic: dict[str, Traffic] = {}

    def __iter__(self) -> Iterator[V]:
        for versions in self._models.values():
            yield from versions.by_version.values()

    def names(self) -> list[str]:
        """Return the names of all models, sorted."""
        return sorted(self._models)

    def default(self, name: str) -> str:
        """Return the default version of a model that is there."""
        return self._models[name].default

    def defaults(self) -> Iterator[V]:
        """Yield the default version of every model."""
        for versions in self._models.values():
            yield versions.by_version[versions.default]

    def find(self, name: str, version: str | None) -> V:
        """Return a version of a model; the default one if none is named.

        Raises:
            ModelNotFoundError, VersionNotFoundError: nothing of that name.
        """
        versions = self._models.get(name)
        if versions is None:
            raise ModelNotFoundError(f"Model not found: {name}")
        found = versions.by_version.get(versions.default if version is None else version)
        if found is None:
            raise VersionNotFoundError(f"Model version: {version} does not exist for model: {name}")
        return found

    def all(self, name: str) -> list[V]:
        """All versions of a model, the default one first.

        Raises:
            ModelNotFoundError: nothing of that name.
        """
        first = self.find(name, None)
        return [first, *(one for one in self._models[name].by_version.values() if one is not first)]

    def named(self, name: str, version: str | None) -> list[V]:
        """One version (None: the default one) or ``all``, the default one first.

        Raises:
            ModelNotFoundError, VersionNotFoundError: nothing of that name.
        """
        return self.all(name) if version == "all" else [self.find(name, version)]

    def check_free(self, name: str, version: str) -> None:
        """Find that a version could be added.

        Raises:
            ModelError: no model can have this name.
            ConflictError: it is there already.
        """
        if name in self._reserved:
            raise ModelError(
                f"no model can be named {name} where all APIs share one port: routes begin with it; "
                "give another model_name, or start the server without --single-port"
            )
        if name in self._models and version in self._models[name].by_version:
            raise ConflictError(f"Model version {version} is already registered for model {name}")

    def add(self, name: str, version: str, value: V) -> None:
        """Add a version; the first one of a model is its default.

        Raises:
            ModelError: no model can have this name.
            ConflictError: it is there already.
        """
        self.check_free(name, version)
        self._models.setdefault(name, _Versions(version)).by_version[version] = value

    def share(self, name: str, version: str, wanted: Share) -> None:
        """Give a version a share of the requests that name none, or copies of them.

        Raises:
            ModelNotFoundError, VersionNotFoundError: nothing of that name.
            BadRequestError: it is the default version, or there is not enough left.
        """
        self.find(name, version)
        if version == self.default(name) and wanted.percent:
            raise BadRequestError(
                f"version {version} is the default one of model {name}: it answers what no other version does; "
                "give another version a share, or make another one the default first"
            )
        traffic = self.traffic.get(name) or Traffic(name)
        traffic.give(version, wanted)
        self._note(name, traffic)

    def shares(self, name: str) -> dict[str, Share]:
        """Which versions of a model have a share of the requests that name none."""
        traffic = self.traffic.get(name)
        return traffic.shares() if traffic else {}

    def restore_share(self, name: str, version: str, written: Mapping[str, Any]) -> None:
        """Give a version the share that was written down.

        Raises:
            BadRequestError: nobody has written that.
        """
        traffic = self.traffic.get(name) or Traffic(name)
        traffic.restore(version, written)
        self._note(name, traffic)

    def _end_share(self, name: str, version: str) -> None:
        if name in self.traffic:
            self.traffic[name].end(version)
            self._note(name, self.traffic[name])

    def _note(self, name: str, traffic: Traffic) -> None:
        if traffic:
            self.traffic[name] = traffic
        else:
            self.traffic.pop(name, None)

    def set_default(self, name: str, version: str) -> None:
        """Make a version the default one; a share of its own ends.

        Raises:
            ModelNotFoundError, VersionNotFoundError: nothing of that name.
        """
        self.find(name, None)
        if version not in self._models[name].by_version:
            raise VersionNotFoundError(f"Model version {version} does not exist for model {name}")
        self._models[name].default = version
        self._end_share(name, version)

    def remove(self, name: str, version: str | None) -> V:
        """Remove a version and return it; the default one if none is named.

        Raises:
            ModelNotFoundError, VersionNotFoundError: nothing of that name.
            NotAllowedError: the default version, while there are others.
        """
        found = self.find(name, version)
        versions = self._models[name]
        if version in (None, versions.default) and len(versions.by_version) > 1:
            raise NotAllowedError(f"Cannot remove default version for model {name}")
        version = version or versions.default
        del versions.by_version[version]
        self._end_share(name, version)
        if not versions.by_version:
            del self._models[name]
        return found

    def forget(self, name: str, version: str, value: V) -> bool:
        """Remove what was added and has failed, the default version too; say whether it was still there."""
        versions = self._models.get(name)
        if versions is None or versions.by_version.get(version) is not value:
            return False
        del versions.by_version[version]
        self._end_share(name, version)
        if not versions.by_version:
            del self._models[name]
        elif versions.default == version:
            versions.default = next(reversed(versions.by_version))
            self._end_share(name, versions.default)
        return True
