"""Ray Serve as the engine sees it: applications that are deployed, asked and ended."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import ray
from ray import serve
from ray.exceptions import RayActorError, RayTaskError
from ray.serve._private import replica as serve_replica
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException

from serving.control.configuration.config import is_loopback
from serving.frontend.apps.inference import inference_app
from serving.frontend.apps.management import management_app
from serving.frontend.engine import Call, Done, Registration
from serving.frontend.entrance import App
from serving.frontend.errors import FrontendError
from serving.frontend.joined import joined
from serving.frontend.meters import Uncounted
from serving.frontend.ray import names, nodes
from serving.frontend.ray.actor import RegistryClient, close_proxy
from serving.frontend.ray.engine import RayEngine
from serving.frontend.ray.nodes import Archive
from serving.frontend.ray.replica import AsgiApp, Replica, keys_of, settings_of
from serving.frontend.ray.specs import Spec
from serving.frontend.ray.surroundings import AppState, LostReplicaError, Running

#: Name of the only deployment of an application.
DEPLOYMENT: Final = "model"
#: Seconds between two looks at a replica's worker, and those that it may take to answer.
_HEALTH_S: Final = 5.0
_HEALTH_TIMEOUT_S: Final = 30.0
#: Seconds that a replica may take for what it has when it is to end.
GRACE_S: Final = 120.0
# Requests that a process may have, those too whose bodies still come: more than HAProxy has connections. What waits for
# a model is bounded by its engine. A lower bound would be reached by clients that are slow, or have no key.
_UNDER_WAY: Final = 10_000
_POLL_S: Final = 0.1
# How a traceback names our errors.
_OURS: Final = f"{FrontendError.__module__}."
# What Ray has in place of a traceback's first line, with colours or what is left of them.
_RAYS_TRACEBACK: Final = re.compile(r"^.*ray::.*\(pid=\d+.*$", re.MULTILINE)
_GONE: Final = frozenset({"STOPPING", "STOPPED"})


def leave_requests_to_us() -> None:
    """Let the replicas of this process answer whatever HAProxy sends them, and by themselves.

    Ray's own would answer 404 to a request that an HAProxy sends which has not heard yet that the version has another
    route since; and at a client's deadline a text of its own, where our engine answers as on one machine. Where Ray
    keeps these elsewhere some day, this does nothing.
    """
    serve_replica.Replica._route_prefix = property(lambda _: "/", lambda *_: None)
    serve_replica.Replica._parse_request_timeout = lambda *_: None


class Model:
    """A replica of a version."""

    async def __init__(self, spec: Spec) -> None:  # type: ignore[misc]
        leave_requests_to_us()
        close_proxy()
        registry = await asyncio.to_thread(RegistryClient)
        info = await asyncio.to_thread(registry.info)
        wanted = replace(spec.registration, model_name=spec.name)
        self._replica = Replica(spec.archive, wanted, info, registry.read)
        await self._replica.start()

    def __serve_build_asgi_app__(self) -> App:
        """Return what HAProxy asks."""
        assert self._replica.app is not None  # noqa: S101 (it has started)
        return self._replica.app

    async def check_health(self) -> None:
        """Let Ray replace this replica when its worker has given up.

        Raises:
            RuntimeError: it has.
        """
        if not self._replica.healthy:
            raise RuntimeError("the worker has given up")

    async def asked(self, call: Call, remaining_s: float | None) -> AsyncIterator[Mapping[str, Any]]:
        """Answer what came to the front; see `Replica.asked`."""
        async for item in self._replica.asked(call, remaining_s):
            yield item

    async def __del__(self) -> None:
        await self._replica.end()


class Front:
    """What answers all that no version answers by itself: the management API, and the inference API over all models."""

    async def __init__(self) -> None:  # type: ignore[misc]
        leave_requests_to_us()
        self._place = await asyncio.to_thread(nodes.workplace)
        registry = await asyncio.to_thread(RegistryClient)
        info = await asyncio.to_thread(registry.info)
        settings = settings_of(info, self._place.folder)
        self._engine = RayEngine(info, settings, Serve(), registry)
        keys = keys_of(info, self._place.folder)
        meters = Uncounted()
        self._app = AsgiApp(
            joined(
                {
                    "inference": inference_app(self._engine, settings, keys, meters),
                    "management": management_app(self._engine, settings, keys, meters),
                }
            )
        )
        await self._engine.start()

    def __serve_build_asgi_app__(self) -> App:
        """Return what HAProxy asks."""
        return self._app

    async def take(self, archive: Archive, wanted: Registration) -> Done:
        """Take a model that is deployed with the server; see `RayEngine.take`."""
        return await self._engine.take(archive, wanted, at_startup=True)

    async def __del__(self) -> None:
        await self._engine.drain(0.0)
        await asyncio.to_thread(self._place.remove)


_MODEL = serve.deployment(name=DEPLOYMENT)(serve.ingress()(Model))
_FRONT = serve.deployment(name=DEPLOYMENT)(serve.ingress()(Front))


def application(spec: Spec, code: str) -> serve.Application:
    """Make the application of a version.

    Args:
        spec: of the version.
        code: what its replicas are made of.
    """
    runtime_env = {"pip": list(spec.requirements)} if spec.requirements else {}
    count: dict[str, Any] = {"num_replicas": spec.least}
    if spec.most > spec.least:
        autoscaling = {"min_replicas": spec.least, "max_replicas": spec.most}
        count = {"autoscaling_config": {**autoscaling, "target_ongoing_requests": spec.target}}
    deployment = _MODEL.options(
        **count,
        version=code,
        _internal=True,  # without it Ray would start every replica anew at each change
        max_ongoing_requests=_UNDER_WAY,
        max_queued_requests=-1,
        graceful_shutdown_timeout_s=GRACE_S,
        logging_config={"enable_access_log": False},  # a line for each request
        health_check_period_s=_HEALTH_S,
        health_check_timeout_s=_HEALTH_TIMEOUT_S,
        ray_actor_options={"num_cpus": spec.cpus, "num_gpus": spec.gpus, "runtime_env": runtime_env},
    )
    return deployment.bind(spec)


def front(code: str) -> serve.Application:
    """Make the application that answers all else."""
    return _FRONT.options(
        num_replicas=1,
        version=code,
        _internal=True,
        max_ongoing_requests=_UNDER_WAY,
        max_queued_requests=-1,
        ray_actor_options={"num_cpus": 0},
    ).bind()


class Serve:
    """See `serving.frontend.ray.engine.Cluster`."""

    def __init__(self) -> None:
        self._handles: dict[str, Any] = {}

    def deploy(self, spec: Spec, route: str, code: str) -> None:
        """Have a version's application be so; replicas of the same code stay."""
        target = serve.RunTarget(application(spec, code), name=spec.application, route_prefix=route)
        serve.run_many([target], wait_for_applications_running=False)

    def deploy_front(self, code: str) -> None:
        """Have the application that answers all else, and wait for it."""
        serve.run_many([serve.RunTarget(front(code), name=names.FRONT, route_prefix=names.FRONT_ROUTE)])

    async def take(self, archive: Archive, wanted: Registration) -> Done:
        """Let the front take a model. Of a process, all that is asked of Ray Serve goes through one event loop.

        Raises:
            FrontendError: it does not.
        """
        handle: Any = await asyncio.to_thread(serve.get_deployment_handle, DEPLOYMENT, names.FRONT)
        try:
            return await handle.take.remote(archive, wanted)  # type: ignore[no-any-return]
        except RayTaskError as error:
            raise getattr(error, "cause", error) from None

    def begin_delete(self, application: str) -> None:
        """Begin to end an application."""
        self._handles.pop(application, None)
        serve.delete(application, _blocking=False)

    def delete(self, application: str, grace_s: float) -> bool:
        """End an application once it has answered what it took; say whether it has ended in time."""
        self.begin_delete(application)
        until = time.monotonic() + grace_s
        while application in serve.status().applications:
            if time.monotonic() > until:
                return False
            time.sleep(_POLL_S)
        return True

    def states(self) -> Mapping[str, AppState]:
        """Return all applications by their names."""
        return {name: _state(one) for name, one in details()["applications"].items()}

    def heard(self, routes: Mapping[str, str]) -> bool:
        """Return whether every proxy that can be asked from here sends requests so."""
        found = details()
        host, port = found["http_options"]["host"], found["http_options"]["port"]
        hosts = {one["node_ip"] for one in found["proxies"].values()}
        if is_loopback(host):
            hosts = {host} if ray.util.get_node_ip_address() in hosts else set()
        return all(routes.items() <= _routes_of(one, port).items() for one in hosts)

    async def ask(self, spec: Spec, call: Call, remaining_s: float | None) -> AsyncGenerator[Mapping[str, Any], None]:
        """Ask a replica: what `Replica.asked` yields."""
        handle: Any = self._handles.get(spec.application)
        if handle is None:
            handle = await asyncio.to_thread(serve.get_deployment_handle, DEPLOYMENT, spec.application)
            self._handles[spec.application] = handle
        items = handle.options(stream=True).asked.remote(call, remaining_s)
        try:
            async for item in items:
                yield item
        except (RayActorError, RayServeException) as error:
            raise LostReplicaError from error
        finally:
            items.cancel()


def details() -> Mapping[str, Any]:
    """Return what Ray Serve says of itself.

    Raises:
        RayServeException: it does not run.
    """
    client = _get_global_client()
    assert client is not None  # noqa: S101 (it raises)
    return client.get_serve_details()  # type: ignore[no-any-return]


def _routes_of(host: str, port: int) -> Mapping[str, str]:
    """Return the applications by their routes, as the proxy of a node has them; none where it does not say."""
    with contextlib.suppress(OSError, ValueError, http.client.HTTPException):
        connection = http.client.HTTPConnection(host, port, timeout=_HEALTH_S)
        try:
            connection.request("GET", "/-/routes")
            return dict(json.loads(connection.getresponse().read()))
        finally:
            connection.close()
    return {}


def _state(found: Mapping[str, Any]) -> AppState:
    deployments = found["deployments"].values()
    replicas = [one for deployment in deployments for one in deployment["replicas"] if one["state"] not in _GONE]
    said = [one.get("message", "") for one in (found, *deployments)]
    return AppState(
        running=found["status"] == "RUNNING",
        failed=found["status"] == "DEPLOY_FAILED",
        route=found["route_prefix"] or "",
        message=_why([text for text in said if text]),
        replicas=tuple(
            Running(one["start_time_s"], one["state"] == "RUNNING", one.get("pid") or -1) for one in replicas
        ),
    )


def _why(said: Sequence[str]) -> str:
    """Return why an application is as it is: our own error where Ray's texts end with one, which says it all."""
    ours = [text.rpartition(_OURS)[2].partition(": ")[2].strip() for text in said if _OURS in text]
    told = dict.fromkeys(filter(None, ours)) or dict.fromkeys(text.strip() for text in said)
    return _RAYS_TRACEBACK.sub("Traceback (most recent call last):", " ".join(told))
