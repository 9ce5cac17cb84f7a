"""A version as Ray Serve is told of it: which archive, how many replicas, what each of them needs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from serving.frontend.engine import Registration
from serving.frontend.errors import BadRequestError, ModelError
from serving.frontend.local.models import archives, describing
from serving.frontend.local.models.model import Model, model_of
from serving.frontend.ray import names, nodes
from serving.frontend.ray.nodes import Archive
from serving.frontend.settings import Settings

#: Processors of a replica, unless somebody says otherwise.
CPUS: Final = 1.0
#: Replicas of a version: more than large clusters have.
MOST_REPLICAS: Final = 10_000


@dataclass(frozen=True)
class Resources:
    """What a replica takes of its node.

    Attributes:
        cpus: processors; a part of one will do.
        gpus: GPUs; None for what the model's configuration says.
    """

    cpus: float = CPUS
    gpus: float | None = None


@dataclass(frozen=True)
class Spec:
    """A version.

    Attributes:
        registration: what was asked for; its ``url`` is what describes the version.
        least, most: replicas; Ray Serve scales between them.
        gpus: of a replica.
        queue_size: requests that may wait in a replica.
        target: requests under way in each replica that Ray Serve scales for.
        retry: whether a request whose replica died may be sent again.
        requirements: packages that the archive asks for, where they are installed.
        settings: as ``GET /models/{name}`` shows them.
        at_startup: whether it was there from the start.
        task: what its archive records that it is for; empty where it says nothing.
    """

    name: str
    version: str
    runtime: str
    archive: Archive
    registration: Registration
    least: int
    most: int
    cpus: float
    gpus: float
    queue_size: int
    target: float
    retry: bool
    startup_timeout_s: int
    requirements: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    at_startup: bool = False
    task: str = ""

    @property
    def application(self) -> str:
        """Name of its application."""
        return names.application(self.name, self.version)

    def route(self, *, default: bool) -> str:
        """Return its route."""
        return names.route(self.name, self.version, default=default)

    def scaled(self, least: int, most: int) -> Spec:
        """Return the same with other numbers of replicas.

        Raises:
            BadRequestError: no version can have so many, or none.
        """
        check_replicas(self.name, least)
        return replace(
            self, least=least, most=most, settings={**self.settings, "minWorkers": least, "maxWorkers": most}
        )

    def code(self, server: str) -> str:
        """Return what tells whether replicas of before can stay: all that they were made of, but not their number.

        Args:
            server: the same of what they know of the server.
        """
        wanted = replace(self.registration, initial_workers=None)
        own = asdict(replace(self, registration=wanted, least=0, most=0, settings={}, at_startup=False))
        own["archive"] = self.archive.sha256
        return digest(own, server)


def digest(*parts: Any) -> str:
    """Return what differs where one of the parts does."""
    text = json.dumps(
        parts, sort_keys=True, default=lambda value: value.hex() if isinstance(value, bytes) else str(value)
    )
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_replicas(name: str, least: int) -> None:
    """Refuse so few replicas that nobody could answer, and so many that no cluster has room for them.

    Raises:
        BadRequestError: they are.
    """
    if least < 1:
        raise BadRequestError(
            f"model {name}: on Ray Serve a version has one worker at least; unregister it to have none"
        )
    if least > MOST_REPLICAS:
        raise BadRequestError(f"model {name}: {least} workers are more than the {MOST_REPLICAS} that one may have")


def spec_of(
    model: Model,
    archive: Archive,
    wanted: Registration,
    resources: Resources,
    *,
    install: bool,
    gpus: int | None,
    at_startup: bool,
) -> Spec:
    """Make of a model what Ray Serve is told of it.

    Args:
        model: as the archive and its registration describe it.
        archive: its.
        wanted: the registration.
        resources: of each replica.
        install: whether the archive's requirements are installed.
        gpus: number_of_gpu of the configuration: 0 for none at all.
        at_startup: whether it is there from the start.

    Raises:
        ModelError: it asks for what Ray Serve cannot do.
        BadRequestError: it wants too many replicas.
    """
    names.check(model.name, model.version)
    _refuse(model)
    least = max(1, model.least)
    check_replicas(model.name, least)
    most = max(least, model.most)
    return Spec(
        name=model.name,
        version=model.version,
        runtime=model.runtime,
        archive=archive,
        registration=wanted,
        least=least,
        most=most,
        cpus=resources.cpus,
        gpus=_gpus(model, resources, gpus),
        queue_size=model.queue_size,
        target=float(2 * model.batch_size),
        retry=model.retry,
        startup_timeout_s=model.startup_timeout_s,
        requirements=_requirements(model) if install else (),
        settings={**describing.settings_of(model), "minWorkers": least, "maxWorkers": most},
        at_startup=at_startup,
        task=model.unpacked.task,
    )


def _refuse(model: Model) -> None:
    """Refuse what needs to know of all replicas, of which none knows another."""
    for key, asked, why in (
        ("sequenceBatching", model.stateful, "the requests of a sequence would go to different replicas"),
        ("useJobTicket", model.ticketed, "a request would be refused though another replica is free"),
    ):
        if asked:
            raise ModelError(f"model {model.name} cannot be served on Ray Serve: {key} in its configuration: {why}")


def _gpus(model: Model, resources: Resources, number: int | None) -> float:
    if resources.gpus is not None:
        return resources.gpus
    device = model.values.get("deviceType")
    if device == "cpu" or number == 0:
        return 0.0
    return float(model.levels) if device == "gpu" or model.values.get("deviceIds") or number else 0.0


def _requirements(model: Model) -> tuple[str, ...]:
    """Read the lines of the archive's requirements.

    Raises:
        ModelError: they cannot be read.
    """
    manifest = model.unpacked.manifest
    file = manifest.model.requirements_file if manifest else None
    if not file:
        return ()
    try:
        text = (model.unpacked.folder / file).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise ModelError(f"model {model.name}: {file} cannot be read: {error}") from error
    lines = (line.partition(" #")[0].strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def understood(
    archive: Archive,
    wanted: Registration,
    resources: Resources,
    key: bytes,
    settings: Settings,
    read: nodes.Read,
    *,
    at_startup: bool,
) -> Spec:
    """Understand an archive and its registration. Unpacks it on this node, so it runs in a thread.

    Args:
        archive: of the model.
        wanted: how it is registered.
        resources: of each replica.
        key: public key in PEM that it must be signed with; empty for none.
        settings: of the server.
        read: gives pieces of the archive.
        at_startup: whether it is deployed with the server.

    Raises:
        FrontendError: it cannot be had, is not signed, or asks for what Ray Serve cannot do.
    """
    if wanted.initial_workers is None:
        wanted = replace(wanted, initial_workers=settings.default_workers_per_model or 1)
    folder, held = nodes.unpacked(archive, read, key, settings)
    try:
        unpacked = archives.unpack(str(folder), settings)
        try:
            return spec_of(
                model_of(unpacked, wanted, settings),
                archive,
                wanted,
                resources,
                install=settings.install_py_dep_per_model,
                gpus=settings.number_of_gpu,
                at_startup=at_startup,
            )
        finally:
            archives.clean(unpacked)
    finally:
        held.release()
