"""What the commands share: options, and the search for the server and its keys."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from rich.console import Console

    from serving.check import Input
    from serving.client import InferenceClient, ManagementClient
    from serving.control import ServerRecord

F = TypeVar("F", bound=Callable[..., Any])

# Where a server is looked for that torchmar did not start.
USUAL_ADDRESSES = {"inference": "http://127.0.0.1:8080", "management": "http://127.0.0.1:8081"}


class PortType(click.ParamType):  # type: ignore[type-arg, unused-ignore]  # generic since click 8.4
    """A port, or ``auto``."""

    name = "N|auto"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | Literal["auto"] | None:
        """Convert the text to a port."""
        if value is None or value == "auto":
            return value  # type: ignore[no-any-return]
        if not str(value).isdigit() or not 1 <= int(value) <= 65531:
            self.fail(f"{value!r} is neither 'auto' nor a port from 1 to 65531", param, ctx)
        return int(value)


class FromEnvironment(click.Option):
    """An option that a variable may give, too: what is wrong is said of the one that gave it."""

    def process_value(self, ctx: click.Context, value: Any) -> Any:
        """Convert what was given.

        Raises:
            BadParameter: it cannot be.
        """
        try:
            return super().process_value(ctx, value)
        except click.BadParameter as error:
            if ctx.get_parameter_source(str(self.name)) is ParameterSource.ENVIRONMENT:
                names = [self.envvar] if isinstance(self.envvar, str) else self.envvar or ()
                error.param_hint = next((f"{name} in the environment" for name in names if os.environ.get(name)), None)
            raise


def name_option(command: F) -> F:
    """Add ``--name``: which server."""
    return click.option(
        "--name", "server", default="default", show_default=True, metavar="NAME", help="Name of the server."
    )(command)


def json_option(command: F) -> F:
    """Add ``--json``: output for programs."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")(command)


def quiet_option(command: F) -> F:
    """Add ``--quiet``: nothing but what is wrong."""
    return click.option("-q", "--quiet", is_flag=True, help="Print nothing unless something is wrong.")(command)


def model_store_option(command: F) -> F:
    """Add ``--model-store``: where the archives are."""
    return click.option(
        "--model-store", type=click.Path(path_type=Path), metavar="DIR", help="Folder that holds the archives."
    )(command)


def enable_model_api_option(command: F) -> F:
    """Add ``--enable-model-api``: models can come and go."""
    return click.option(
        "--enable-model-api",
        is_flag=True,
        help="Let models be registered and removed while it runs; requests then need a key (torchmar keys).",
    )(command)


def print_json(value: Any) -> None:
    """Print what ``--json`` asks for."""
    click.echo(json.dumps(value, indent=2, allow_nan=False, default=str))


def complete_models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """Complete the models of the server that a command is typed for; none if it does not answer at once."""
    from archive_tool.errors import TorchmarError

    given = ctx.params
    try:
        client = management_client(given.get("server") or "default", given.get("management"), 1.0)
        with client:
            names = [row.name for row in client.models()]
    except (TorchmarError, OSError):
        return []
    return [name for name in names if name.startswith(incomplete)]


def complete_versions(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """Complete the versions of the model that a command is typed for."""
    from archive_tool.errors import TorchmarError

    given = ctx.params
    try:
        with management_client(given.get("server") or "default", given.get("management"), 1.0) as client:
            versions = [row.version for row in client.describe(given.get("model") or "")]
    except (TorchmarError, OSError):
        return []
    return [version for version in versions if version.startswith(incomplete)]


def complete_archives(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:  # noqa: ARG001
    """Complete the archives of the model store that a command is typed for, after ``NAME=`` too."""
    from archive_tool.errors import TorchmarError
    from serving.control.models.store import DEFAULT_STORE, all_archives

    try:
        record = running(ctx.params.get("server") or "default")
        store = ctx.params.get("model_store") or (Path(record.model_store) if record else DEFAULT_STORE)
        names = [path.name for path in all_archives(Path(store))]
    except (TorchmarError, OSError):
        return []
    before, equals, typed = incomplete.rpartition("=")
    return [f"{before}{equals}{name}" for name in names if name.startswith(typed)]


def read_once(names: Iterable[str]) -> None:
    """Refuse two requests that both read standard input, ``-``.

    Raises:
        InputError: both do.
    """
    from archive_tool.errors import InputError

    if sum(name == "-" for name in names) > 1:
        raise InputError("- is named twice, but standard input can be read once")


def read_inputs(files: Sequence[Path]) -> tuple[Input, ...]:
    """Read the files as requests; ``-`` is standard input. The content type goes by the name.

    Raises:
        InputError: standard input is named twice, and can be read once.
        OSError: a file cannot be read.
    """
    from archive_tool.building.samples import content_type_of
    from serving.check import Input

    read_once(map(str, files))
    return tuple(
        Input(
            str(file),
            sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes(),
            content_type_of(file.name),
        )
        for file in files
    )


def management_option(command: F) -> F:
    """Add ``--management``: where to find a server that torchmar did not start."""
    return click.option(
        "--management",
        metavar="URL",
        help="Address of the management API; by default that of the server NAME, else http://127.0.0.1:8081.",
    )(command)


def token_file_option(command: F) -> F:
    """Add ``--token-file``: the key of a server that torchmar did not start."""
    return click.option(
        "--token-file",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help="File with the key, or TorchServe's key_file.json; by default the server's own key, else TORCHMAR_TOKEN.",
    )(command)


def header_option(command: F) -> F:
    """Add ``--header``: pairs of a name and a value, none of which HTTP could not carry."""
    return click.option(
        "--header",
        "headers",
        multiple=True,
        metavar="NAME=VALUE",
        callback=lambda _context, _option, texts: tuple(_header(text) for text in texts),
        help="A request header. May be repeated.",
    )(command)


def _header(text: str) -> tuple[str, str]:
    from serving.client.transport import HEADER_NAME

    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not HEADER_NAME.fullmatch(name):
        raise click.BadParameter(f"{text!r} is not NAME=VALUE")
    if not (value.isascii() and (value.isprintable() or not value)):
        raise click.BadParameter(f"the value of {name} has a character that a header cannot have: {value!r}")
    return name, value


def timeout_option(default: float) -> Callable[[F], F]:
    """Add ``--timeout``: seconds to wait."""
    return click.option(
        "--timeout",
        type=click.FloatRange(min=0.1),
        default=default,
        show_default=True,
        help="Seconds to wait.",
    )


def running(server: str) -> ServerRecord | None:
    """Return the record of the running server of this name; None if there is none."""
    from serving.control import StateFolder

    record = StateFolder(server).record()
    return record if record is not None and record.alive else None


def address_of(
    server: str, api: Literal["inference", "management"], given: str | None, token_file: Path | None = None
) -> tuple[str, str | None]:
    """Return address and key of an API.

    The address is the one given, else that of the named server, else TORCHMAR_INFERENCE or TORCHMAR_MANAGEMENT, else
    TorchServe's usual one. The key is the one in the file, else that of the server if torchmar started it, else
    TORCHMAR_TOKEN.

    Raises:
        NotRunningError: the named server does not run.
        InputError: the file with the key cannot be read, or holds no key.
        ReplyError: an expired key could not be renewed.
    """
    from serving.control import StateFolder
    from serving.control.keys import checked_key, current_key, key_in_file
    from serving.control.state import not_running

    record = None if given else running(server)
    if record is not None:
        address = str(getattr(record, api))
    elif given or server == "default":
        address = given or os.environ.get(f"TORCHMAR_{api.upper()}") or USUAL_ADDRESSES[api]
        record = _at(address, api)
        if record is None and not given and f"TORCHMAR_{api.upper()}" not in os.environ:
            _only_one_of_another_name(address)
    else:
        raise not_running(server)
    if token_file is not None:
        known = record.management if record else address if api == "management" else None
        return address, key_in_file(token_file, api, known)
    if record is not None:
        return address, current_key(record, StateFolder(record.name), api)
    token = os.environ.get("TORCHMAR_TOKEN")
    return address, checked_key(token, "TORCHMAR_TOKEN") if token else None


def _only_one_of_another_name(address: str) -> None:
    """Name the servers that run if none listens at the usual address.

    Raises:
        NotRunningError: there is none of the name default, and none that another program started there.
    """
    from serving.control.state import not_running, running_servers

    if not running_servers():
        return
    _, host, port = _place(address)
    try:
        socket.create_connection((host, port or 80), timeout=1.0).close()
    except OSError:
        raise not_running("default") from None


def _at(address: str, api: Literal["inference", "management"]) -> ServerRecord | None:
    """Return our server at an address, if there is one."""
    from serving.control.state import running_servers

    return next((one for one in running_servers() if _place(getattr(one, api)) == _place(address)), None)


def _place(address: str) -> tuple[str | None, str, int | None]:
    from serving.client import Address

    found = Address(address)
    return found.socket_path, "127.0.0.1" if found.host == "localhost" else found.host, found.port


def management_client(
    server: str, given: str | None, timeout_s: float, token_file: Path | None = None
) -> ManagementClient:
    """Return a client of the server's management API, with its key."""
    from serving.client import ManagementClient

    address, token = address_of(server, "management", given, token_file)
    return ManagementClient.at(address, timeout_s=timeout_s, token=token)


def inference_client(
    server: str, given: str | None, timeout_s: float, token_file: Path | None = None
) -> InferenceClient:
    """Return a client of the server's inference API, with its key."""
    from serving.client import InferenceClient

    address, token = address_of(server, "inference", given, token_file)
    return InferenceClient.at(address, timeout_s=timeout_s, token=token)


@contextmanager
def traceback_shown() -> Iterator[None]:
    """Show the worker's traceback above the error that sums it up."""
    from serving.errors import ModelLoadError

    try:
        yield
    except ModelLoadError as error:
        if error.traceback:
            click.secho(error.traceback, dim=True, err=True)
        raise


def console() -> Console:
    """Return a console with tables as wide as they need to be off a terminal: a pipe must not cut file names."""
    from rich.console import Console

    return Console() if sys.stdout.isatty() else Console(width=200, soft_wrap=True)
