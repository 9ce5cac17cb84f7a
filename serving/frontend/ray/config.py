"""The config of Ray Serve for archives: what `torchmar deploy ray --config-only` prints. Knows no Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from archive_tool.errors import InputError
from archive_tool.reading.archive import open_archive
from serving.control.configuration.config import ModelSpec
from serving.frontend.errors import FrontendError
from serving.frontend.ray import names, nodes, starting
from serving.frontend.settings import Settings

_MODULE: Final = "serving.frontend.ray.configured"


class _Whole(yaml.SafeDumper):
    """Writes the same again where it comes again: each application can be read, and changed, by itself."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002
        return True


def config_of(
    settings: Settings,
    models: Sequence[ModelSpec],
    at: Path | None,
    replicas: int | None,
    signature_key: Path | None = None,
) -> dict[str, Any]:
    """Return the config.

    Args:
        settings: of the server; the archives are in its model store.
        models: to serve; the first of a name is its default version.
        at: folder of the archives in the cluster; None for where they are here.
        replicas: of each version that does not say itself how many; None for one.
        signature_key: public key that the archives must be signed with; None for none. It goes where they go.

    Raises:
        InputError: an archive cannot be read, or cannot be served on Ray Serve.
    """
    properties = starting.properties_of(settings)
    if replicas is not None:
        properties["default_workers_per_model"] = f"{replicas}"
    server: dict[str, Any] = {"properties": properties, "cpus": starting.resources(settings).cpus}
    if (gpus := starting.resources(settings).gpus) is not None:
        server["gpus"] = gpus
    if signature_key is not None:
        server["signature_key"] = str(at / signature_key.name if at else signature_key.absolute())
    variables = {key: value for key, value in environment(settings).items() if key.startswith("RAY_SERVE_")}
    common = {"runtime_env": {"env_vars": variables}}
    applications = [
        {
            "name": names.FRONT,
            "route_prefix": names.FRONT_ROUTE,
            "import_path": f"{_MODULE}:front",
            **common,
            "args": {"server": server},
        }
    ]
    seen: set[str] = set()
    for spec in models:
        path = settings.place.model_store / spec.archive
        name, version = _name_of(path, spec)
        default = name not in seen
        seen.add(name)
        applications.append(
            {
                "name": names.application(name, version),
                "route_prefix": names.route(name, version, default=default),
                "import_path": f"{_MODULE}:model",
                **common,
                "args": {
                    "archive": str(at / path.name if at else path),
                    "sha256": nodes.look(path).sha256,
                    "default": default,
                    "name": name,
                    "server": server,
                },
            }
        )
    if len({one["name"] for one in applications}) < len(applications):
        raise InputError("two of the archives have the same name and version", hint="name each model once")
    return {
        "proxy_location": starting.proxies(settings.text("torchmar_ray_proxies")),
        "http_options": {"host": settings.inference_address.host, "port": settings.inference_address.port},
        "applications": applications,
    }


def environment(settings: Settings) -> dict[str, str]:
    """Return the variables that every node must have before Ray is started there."""
    return starting.environment(resend=settings.on("torchmar_ray_resend"), private=None, haproxy=True, environ={})


def text_of(config: Mapping[str, Any], settings: Settings) -> str:
    """Write a config, and above it what it takes for granted."""
    head = [
        "# For `serve deploy`, KubeRay and images of Ray Serve; torchmar must be installed on every node.",
        "# Start Ray with this environment on each, so that a prediction takes one hop:",
        *(f"#   {key}={value!r}" for key, value in environment(settings).items()),
    ]
    if settings.token_authorization:
        head += [
            "# Requests need a key. Give every node the same ones, from a secret:",
            "#   TORCHMAR_INFERENCE_KEY, TORCHMAR_MANAGEMENT_KEY",
        ]
    return "\n".join(head) + "\n" + yaml.dump(dict(config), Dumper=_Whole, sort_keys=False)


def _name_of(path: Path, spec: ModelSpec) -> tuple[str, str]:
    with open_archive(path) as archive:
        manifest = archive.manifest
    if manifest is None:
        raise InputError(f"{path} has no manifest, so nothing says what its version is", where=str(path))
    name, version = spec.name or manifest.model.model_name or spec.stem(spec.archive), manifest.model.version
    try:
        names.check(name, version)
    except FrontendError as error:
        raise InputError(error.message, where=str(path)) from error
    return name, version
