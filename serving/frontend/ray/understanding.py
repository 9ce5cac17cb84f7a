"""From an archive to what Ray Serve is told of it. Unpacks it on this node, so it runs in a thread."""

from __future__ import annotations

from dataclasses import replace

from serving.frontend.engine import Registration
from serving.frontend.local.models import archives
from serving.frontend.local.models.model import model_of
from serving.frontend.ray import nodes, specs
from serving.frontend.ray.registry import ServerInfo
from serving.frontend.ray.specs import Archive, Spec
from serving.frontend.settings import Settings


def understood(
    archive: Archive, wanted: Registration, info: ServerInfo, settings: Settings, read: nodes.Read, *, at_startup: bool
) -> Spec:
    """Understand an archive and its registration.

    Args:
        archive: of the model.
        wanted: how it is registered.
        info: of the server.
        settings: the same, understood.
        read: gives pieces of the archive.
        at_startup: whether it is deployed with the server.

    Raises:
        FrontendError: it cannot be had, is not signed, or asks for what Ray Serve cannot do.
    """
    if wanted.initial_workers is None:
        wanted = replace(wanted, initial_workers=settings.default_workers_per_model or 1)
    folder, held = nodes.unpacked(archive, read, info.signature_key, settings)
    try:
        unpacked = archives.unpack(str(folder), settings)
        try:
            return specs.spec_of(
                model_of(unpacked, wanted, settings),
                archive,
                wanted,
                info.resources,
                install=settings.install_py_dep_per_model,
                gpus=settings.number_of_gpu,
                at_startup=at_startup,
            )
        finally:
            archives.clean(unpacked)
    finally:
        held.release()
