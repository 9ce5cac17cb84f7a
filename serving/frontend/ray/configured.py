"""What a Serve config names: applications that are built in the cluster, with no command that deploys them.

`torchmar deploy ray --config-only` writes such a config, for `serve deploy`, KubeRay and images of Ray Serve::

    import_path: serving.frontend.ray.configured:model
    args: {archive: /models/mnist.mar, sha256: ..., default: true, server: {...}}

The keys come from the environment of the cluster's processes: TORCHMAR_INFERENCE_KEY, TORCHMAR_MANAGEMENT_KEY.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray.serve import Application

from archive_tool.errors import InputError
from serving.control.configuration.config import token_authorization
from serving.control.keys import VARIABLES, given_keys
from serving.frontend.engine import Registration
from serving.frontend.ray import cluster, nodes
from serving.frontend.ray.actor import RegistryClient
from serving.frontend.ray.registry import ServerInfo
from serving.frontend.ray.replica import settings_of
from serving.frontend.ray.specs import Resources, understood


def model(args: Mapping[str, Any]) -> Application:
    """Build the application of a version.

    Args:
        args: ``archive``, a path that this node sees; ``sha256``, its; ``default``, whether requests without a version
            go there; ``name``, in place of the archive's own; ``server``, as for `front`.

    Raises:
        FrontendError: the archive is another one than the config was written for, or cannot be served.
    """
    registry = RegistryClient.made()
    info = _known(registry, args["server"])
    archive = registry.put(Path(args["archive"]), args["sha256"])
    place = nodes.workplace()
    try:
        wanted = Registration(archive.name, args.get("name"))
        settings = settings_of(info, place.folder)
        spec = understood(archive, wanted, info.resources, info.signature_key, settings, registry.read, at_startup=True)
    finally:
        place.remove()
    registry.join(spec, bool(args["default"]))
    return cluster.application(spec, spec.code(info.digest))


def front(args: Mapping[str, Any]) -> Application:
    """Build the application that answers all else.

    Args:
        args: ``server``: properties of the configuration, a public key's path in ``signature_key``, ``cpus`` and
            ``gpus`` of a replica.

    Raises:
        InputError: the environment gives no keys where requests need one.
    """
    info = _known(RegistryClient.made(), args["server"])
    return cluster.front(info.of_front)


def _known(registry: RegistryClient, server: Mapping[str, Any]) -> ServerInfo:
    """Have the registry know the server; all applications of a config say the same."""
    properties = dict(server["properties"])
    keys = {str(api): key for api, key in given_keys().items()}
    if token_authorization(properties) and len(keys) < len(VARIABLES):
        raise InputError(
            "requests need keys, and the environment of this process has none",
            hint="give it TORCHMAR_INFERENCE_KEY and TORCHMAR_MANAGEMENT_KEY, or files in ..._KEY_FILE",
        )
    path = server.get("signature_key")
    info = ServerInfo(
        properties=properties,
        keys=keys,
        signature_key=Path(path).read_bytes() if path else b"",
        resources=Resources(server["cpus"], server.get("gpus")),
    )
    if registry.info() != info:
        registry.set_info(info)
    return info
