"""``python -m serving.frontend``: the Python frontend as a process, as `torchmar start --frontend python` starts it."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import os
import sys
import traceback
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

from archive_tool.errors import TorchmarError
from serving import descriptors
from serving.control.configuration import frontends
from serving.control.configuration import settings as keys
from serving.control.configuration.config import ModelSpec
from serving.frontend import listening, logs, server
from serving.frontend.assembly import Parts, Startup, assemble
from serving.frontend.entrance import Sampled
from serving.frontend.settings import Place, Settings, home_of, read

#: The variable by which a worker knows that nothing stands between it and us (serving/worker/starting/launch.py).
OWNER = "TORCHMAR_OWNER"
_SIGNALLED = 128
#: New objects, more than have gone, before the garbage collector looks at them; a request holds about forty.
YOUNG_OBJECTS = 10_000

Assemble = Callable[[Settings, Startup], Parts]


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m serving.frontend", description=__doc__)
    parser.add_argument("--config", type=Path, required=True, help="config.properties, with every address")
    parser.add_argument("--model-store", type=Path, required=True, help="folder of the archives")
    parser.add_argument("--home", help="model_server_home: whose worker is started; by default torchmar's")
    parser.add_argument("--runtime", type=Path, required=True, help="folder for sockets and extracted archives, short")
    parser.add_argument("--logs", type=Path, required=True, help="folder of the log files")
    models = parser.add_mutually_exclusive_group()
    models.add_argument("--models", nargs="+", default=[], metavar="NAME=ARCHIVE", help="to begin with")
    models.add_argument("--load-all", action="store_true", help="begin with every archive of the model store")
    parser.add_argument("--no-snapshots", action="store_true", help="do not write down which models are served")
    parser.add_argument("--console", action="store_true", help="show the logs on standard output, too")
    parser.add_argument("--single-port", action="store_true", help="everything at the address of the inference API")
    parser.add_argument("--given-keys", type=Path, metavar="FILE", help="keys to ask for, by their APIs, in JSON")
    parser.add_argument("--multi-model", type=Path, metavar="DIR", help="let SageMaker load models from below a folder")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None, assembled: Assemble = assemble) -> int:
    """Run a server until a signal ends it.

    Args:
        argv: the command line.
        assembled: puts its parts together.

    Returns:
        The exit code: 128 and the signal's number, as a JVM's.
    """
    given = arguments(argv)
    # Workers inherit it: whoever else starts one stands between it and us.
    os.environ[OWNER] = str(os.getpid())
    try:
        return _run(given, assembled)
    except TorchmarError as error:
        tell_failure(error)
        return error.exit_code
    except Exception:
        traceback.print_exc()
        return 1


def tell_failure(error: TorchmarError) -> None:
    """Say why there is no server, in the words, and the one line, that `torchmar start` looks for."""
    where = f" ({error.where})" if error.where else ""
    hint = f"; {error.hint}" if error.hint else ""
    sys.stderr.write(f"The frontend cannot start: {' '.join(f'{error.message}{where}{hint}'.split())}\n")


def _run(given: argparse.Namespace, assembled: Assemble) -> int:
    place = Place(
        model_store=given.model_store.absolute(),
        home=home_of(given.home).absolute(),
        runtime=given.runtime.absolute(),
        logs=given.logs.absolute(),
        keys=Path.cwd(),
    )
    settings = read(given.config, place)
    frontends.refuse_plugins(settings.properties)
    frontends.refuse_client_certificates(settings.properties)
    settings = server.on_single_port(settings) if given.single_port else settings
    startup = Startup(
        tuple(map(ModelSpec.parse, given.models)),
        given.load_all,
        not given.no_snapshots,
        given.given_keys,
        given.multi_model,
    )
    descriptors.allow()  # as Java does
    files = logs.of(settings, sys.stdout if given.console else None)
    with logs.installed(files), server.places(settings) as places:
        _tell(settings, given.config.name)

        async def serve() -> int:
            access = Sampled(files.access, settings.share(keys.ACCESS_SHARE, 1.0)) if settings.on(keys.ACCESS) else None
            return await server.Server(settings, assembled(settings, startup), places, access).run()

        number = _in_loop(serve)
    return _SIGNALLED + number


def _tell(settings: Settings, file: str) -> None:
    """Say what the configuration says in vain."""
    for key in settings.without_meaning:
        server.log.warning("%s: %s has no meaning for the Python frontend", file, key)
    if listening.lacks_grpc(settings):
        server.log.warning("gRPC is not served: grpcio is not installed; %s", frontends.INSTALL_GRPC)
    for text in keys.warnings(settings.properties, file):
        server.log.warning("%s", text)


def _in_loop(serve: Callable[[], Coroutine[Any, Any, int]]) -> int:
    """Run in an event loop of uvloop's, where that is installed."""
    try:
        import uvloop

        loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    except ImportError:
        loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(serve())
    finally:
        for task in (left := asyncio.all_tasks(loop)):
            task.cancel()
        loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
        asyncio.set_event_loop(None)
        loop.close()


def collect_seldom() -> None:
    """Let the garbage collector pass over what is there for good, and leave alone what requests hold while they last.

    A collection of everything would stop all requests for ten milliseconds and more, and with the default threshold
    thirty-two requests under way are looked at again and again; none of them leaves a cycle.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, *gc.get_threshold()[1:])


if __name__ == "__main__":
    collect_seldom()
    code = main()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    # All is written. A thread that still waits for somebody's download must not hold up the end.
    os._exit(code)
