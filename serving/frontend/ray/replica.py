"""A replica of a version: TorchServe's inference API over the engine of one machine, with one model and one worker.

The worker is a process of its own, as beside our own frontend, so batches, streams, deadlines, asynchronous models, the
second try after a worker's death and an environment of the model's own are what they are there.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from serving.frontend.__main__ import OWNER
from serving.frontend.apps.answers import NO_CACHE
from serving.frontend.apps.exchange import Exchange
from serving.frontend.apps.inference import inference_app
from serving.frontend.apps.keys import Keys
from serving.frontend.engine import Answer, Call, Registration
from serving.frontend.entrance import App, Message, Receive, Scope, Send
from serving.frontend.errors import FrontendError, InternalError, ModelError, UnavailableError
from serving.frontend.local.engine import LocalEngine
from serving.frontend.metering.lines import entry_of
from serving.frontend.meters import Uncounted
from serving.frontend.ray import nodes
from serving.frontend.ray.names import route
from serving.frontend.ray.nodes import Archive
from serving.frontend.ray.registry import ServerInfo
from serving.frontend.ray.surroundings import answered, failed
from serving.frontend.settings import Place, Settings, home_of, nowhere

_ID: Final = b"x-request-id"
_PATIENCE: Final = b"x-request-timeout-seconds"
# Ray Serve ends a request at its client's deadline, with a text of its own. Ours comes before it.
_EARLIER_S: Final = 0.005
#: Seconds that answers may take when a replica ends, beside what Ray Serve waits for them.
_GRACE_S: Final = 5.0
#: Lines of what the worker prints that are told when it cannot load the model.
_SHOWN: Final = 40

log = logging.getLogger(__name__)


def settings_of(info: ServerInfo, runtime: Path) -> Settings:
    """Return the settings of a process in the cluster, which works in a folder of its own.

    Raises:
        InputError: one cannot be understood.
    """
    store = Path(info.model_store or runtime)
    return nowhere(info.properties, Place(store, home_of(info.home or None), runtime, runtime, runtime))


def keys_of(info: ServerInfo, runtime: Path) -> Keys | None:
    """Return the keys that requests need; None where they need none."""
    return Keys(runtime / "key_file.json", 1.0, info.keys) if info.keys else None


class AsgiApp:
    """An application of ours as Ray Serve asks it: it answers the lifespan, and Ray names the requests.

    Args:
        app: to be asked.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or begin and end."""
        if scope["type"] == "http":
            await self._app(_earlier(scope), receive, _unnamed(send))
        elif scope["type"] == "lifespan":
            while True:
                kind = (await receive())["type"]
                await send({"type": f"{kind}.complete"})
                if kind == "lifespan.shutdown":
                    return
        else:
            await send({"type": "websocket.close"})


def only(name: str, app: App) -> App:
    """Make an application that answers what is asked of a model, and sends all else away.

    Where a replica has died another one may get its port before HAProxy has heard of it. Of another model's requests it
    would say that there is no such model, and of another API's key that it is wrong; and that is no answer. Of another
    version's it says that there is none, for those of the default version answer for versions that are not there.
    """
    own = f"{route(name, '', default=True)}/"

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if f"{scope['path']}/".startswith(own):
            await app(scope, receive, send)
            return
        said = f"{scope['path'][:200]} is asked of a replica of {name}: the cluster is changing"
        error = UnavailableError(said, headers={"Retry-After": "1"})
        await Exchange(scope, receive, send, NO_CACHE, Uncounted()).fail(error)

    return answer


def _earlier(scope: Scope) -> Scope:
    """Let the client's deadline be a little earlier, so that the answer to it is ours."""
    for index, (name, value) in enumerate(scope["headers"]):
        if name == _PATIENCE:
            with contextlib.suppress(ValueError):
                if (seconds := float(value) - _EARLIER_S) > 0:
                    scope["headers"][index] = (name, b"%.6f" % seconds)
    return scope


def _unnamed(send: Send) -> Send:
    """Leave the request's id to Ray, which gives it to the request before we see it, and writes it on every answer."""

    def sent(message: Message) -> Awaitable[None]:
        if message["type"] == "http.response.start":
            message["headers"] = [pair for pair in message["headers"] if pair[0] != _ID]
        return send(message)

    return sent


class _Unmetered(Uncounted):
    """Counts nothing, and lets nobody see the lines that are metrics: there would be one for each request."""

    def worker_line(self, name: str, version: str, line: str) -> bool:  # noqa: ARG002
        """Say whether a line is a metric."""
        return entry_of(line) is not None


Heard = Callable[[str, str], None]


def _to_ray(line: str, pipe: str) -> None:
    """Print a line of the worker: it goes where Ray keeps what replicas print. Its `print` would add an empty line."""
    (sys.stderr if pipe == "stderr" else sys.stdout).write(f"{line}\n")


class Replica:
    """A version's model, and who asks it: HAProxy by HTTP, the application that answers all else by `asked`.

    Args:
        archive: of the version.
        wanted: how it is registered, with its model's name.
        info: of the server.
        read: gives pieces of the archive.
        heard: takes what the worker prints, line by line, and the pipe that it came from.
    """

    def __init__(
        self, archive: Archive, wanted: Registration, info: ServerInfo, read: nodes.Read, heard: Heard = _to_ray
    ) -> None:
        self._archive, self._wanted, self._info, self._read, self._told = archive, wanted, info, read, heard
        self._printed: deque[str] = deque(maxlen=_SHOWN)
        self._held: nodes.Held | None = None
        self._place: nodes.Held | None = None
        self._engine: LocalEngine | None = None
        self.app: App | None = None

    async def start(self) -> None:
        """Get the archive, and start its worker.

        Raises:
            ModelError: the archive cannot be had, or its worker cannot load it.
        """
        info = self._info
        # The worker inherits it, and ends with us however we end.
        os.environ[OWNER] = str(os.getpid())
        place = self._place = await asyncio.to_thread(nodes.workplace)
        # What the archive requires, Ray has installed.
        settings = replace(settings_of(info, place.folder), install_py_dep_per_model=False)
        folder, self._held = await asyncio.to_thread(
            nodes.unpacked, self._archive, self._read, info.signature_key, settings
        )
        self._engine = LocalEngine(settings, _Unmetered(), self._heard)
        try:
            await self._engine.start((), load_all=False)
            wanted = replace(self._wanted, url=str(folder), synchronous=True)
            await self._engine.register(wanted, workers=1)
        except FrontendError as error:
            await self.end()
            said = "\n".join(self._printed)
            raise ModelError(f"{error.message}\n{said}" if said else error.message) from error
        except BaseException:
            await self.end()
            raise
        app = inference_app(self._engine, settings, keys_of(info, place.folder), Uncounted())
        ((name, _),) = self._engine.names()
        self.app = AsgiApp(only(name, app))

    async def end(self) -> None:
        """Answer what was taken, end the worker, and let go of the archive."""
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.drain(_GRACE_S)
        if self._held is not None:
            self._held.release()
        if self._place is not None:
            await asyncio.to_thread(self._place.remove)

    @property
    def healthy(self) -> bool:
        """Whether there is a worker, ready or on its way."""
        return self._engine is not None and self._engine.healthy

    def _heard(self, worker: str, pipe: str, line: str) -> None:  # noqa: ARG002
        self._printed.append(line)
        self._told(line, pipe)

    async def predict(self, call: Call) -> Answer:
        """Answer a request; see `Engine.predict`.

        Raises:
            FrontendError: there is no answer.
        """
        if self._engine is None:
            raise InternalError("the replica has no model")
        return await self._engine.predict(replace(call, version=None))

    async def asked(self, call: Call, remaining_s: float | None) -> AsyncIterator[Mapping[str, Any]]:
        """Answer what came to another replica first.

        Args:
            call: without a deadline, which is of another clock.
            remaining_s: seconds until it; None without one.

        Yields:
            What `answered` and `failed` make, and then parts.
        """
        if remaining_s is not None:
            call = replace(call, deadline=asyncio.get_running_loop().time() + remaining_s)
        try:
            answer = await self.predict(call)
        except FrontendError as error:
            yield failed(error)
            return
        yield answered(answer)
        if answer.rest is not None:
            async with contextlib.aclosing(answer.rest) as rest:  # type: ignore[type-var]
                async for part in rest:
                    yield {"part": bytes(part)}
