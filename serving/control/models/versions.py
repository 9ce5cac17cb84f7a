"""The default version of each model: the newest, unless the configuration says which."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from packaging.version import InvalidVersion, Version

from serving.client import ManagementClient, ModelVersion
from serving.control.configuration.settings import models_of


def newest(versions: Iterable[str]) -> str:
    """Return the highest version by number; texts that are not numbers come before all numbers."""
    return max(versions, key=_rank)


def _rank(text: str) -> tuple[bool, Version, str]:
    try:
        return True, Version(text), text
    except InvalidVersion:
        return False, Version("0"), text


def with_defaults(
    client: ManagementClient, models: Sequence[ModelVersion], properties: Mapping[str, str], *, by_age: bool = True
) -> tuple[ModelVersion, ...]:
    """Make the newest of several versions of a model the default one; the frontend takes the first that it loads.

    Args:
        client: of the server.
        models: all versions of its models.
        properties: of the server; ``defaultVersion`` in its ``models={...}`` wins.
        by_age: False to do only what that says: a cluster has made the newest of those that are new the default one,
            and leaves the others as they are.

    Returns:
        The versions, with the default ones marked.

    Raises:
        ReplyError: the server refused it.
    """
    configured = {
        name: version
        for name, versions in models_of(properties).items()
        for version, settings in versions.items()
        if settings.get("defaultVersion") is True
    }
    found = list(models)
    for name in dict.fromkeys(model.name for model in models):
        there = [model.version for model in models if model.name == name]
        wanted = configured.get(name)
        if wanted not in there:
            if not by_age:
                continue
            wanted = newest(there)
        if (name, wanted) not in [(model.name, model.version) for model in models if model.default]:
            client.set_default(name, wanted)
            found = [one for one in found if one.name != name] + list(client.describe(name))
    return tuple(sorted(found, key=lambda one: [model.name for model in models].index(one.name)))
