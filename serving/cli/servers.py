"""Commands: start, stop, status, env, home."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from archive_tool.cli.output import discard_output, printable
from serving.cli.options import (
    PortType,
    complete_archives,
    enable_model_api_option,
    inference_client,
    json_option,
    management_client,
    model_store_option,
    name_option,
    print_json,
    quiet_option,
    timeout_option,
    traceback_shown,
)

if TYPE_CHECKING:
    from serving.client import TrafficShare
    from serving.control import ServerRecord, StartOptions, StateFolder
    from serving.control.server import Started

_EMPTY = "no model is served: name some with --models, or register some (--enable-model-api)"


@click.command()
@click.argument("archives", nargs=-1, metavar="[NAME=ARCHIVE]...", shell_complete=complete_archives)
@click.option(
    "--models",
    multiple=True,
    shell_complete=complete_archives,
    metavar="NAME=ARCHIVE",
    help="Model to load: NAME=ARCHIVE, ARCHIVE, or 'all'. Several may follow, or give it several times.",
)
@model_store_option
@click.option(
    "--ts-config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    envvar="TS_CONFIG_FILE",
    help="Configuration; by default ./config.properties if there is one.",
)
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Workers of each model.")
@click.option("--port", type=PortType(), help="Use ports N to N+4, or free ones, instead of the configured ones.")
@click.option(
    "--frontend",
    type=click.Choice(["java", "python"]),
    help="TorchServe's frontend, or torchmar's own, which needs no Java; by default what TORCHMAR_FRONTEND or "
    "torchmar_frontend in the configuration says, else java.",
)
@click.option("--single-port", is_flag=True, help="Everything on the port of the inference API (Python frontend).")
@click.option("--stock-worker", is_flag=True, help="Use TorchServe's own Python worker in place of torchmar's.")
@click.option(
    "--require-signature",
    type=click.Path(path_type=Path),
    metavar="PUBLIC",
    help="Serve only archives signed with the private key of this public one.",
)
@enable_model_api_option
@click.option("--disable-token-auth", is_flag=True, help="Ask for no keys, with --enable-model-api neither.")
@click.option(
    "--restore",
    is_flag=True,
    help="Serve what the server of this name last served, what was registered included, by the same frontend.",
)
@click.option(
    "--ncs",
    "--no-config-snapshots",
    "no_snapshots",
    is_flag=True,
    help="Do not write down which models are served: --restore then finds nothing.",
)
@click.option("--foreground", is_flag=True, help="Stay, show the logs, and stop the server on Ctrl-C.")
@quiet_option
@json_option
@timeout_option(300.0)
@name_option
def start(
    archives: tuple[str, ...],
    models: tuple[str, ...],
    model_store: Path | None,
    ts_config: Path | None,
    workers: int | None,
    port: int | Literal["auto"] | None,
    frontend: Literal["java", "python"] | None,
    single_port: bool,
    stock_worker: bool,
    require_signature: Path | None,
    enable_model_api: bool,
    disable_token_auth: bool,
    restore: bool,
    no_snapshots: bool,
    foreground: bool,
    quiet: bool,
    as_json: bool,
    timeout: float,
    server: str,
) -> None:
    """Start a server and wait until its models are ready.

    Returns when every model has a ready worker, or fails with the worker's own error and leaves nothing running.
    The inference API listens on port 8080, the management API on 8081, metrics on 8082, gRPC on 7070 and 7071,
    unless the configuration or --port says otherwise. No key is needed on loopback, and no model can be added or
    removed; with --enable-model-api both are the other way round.

    \b
    Examples:
      torchmar start --models mnist=mnist.mar --model-store model_store
      torchmar start model_store/mnist.mar --workers 2
      torchmar start --name second --port auto --models all --model-store model_store
      torchmar start --models all --model-store model_store --enable-model-api
      torchmar start --models all --model-store model_store --require-signature public.pem
      torchmar start --restore
      torchmar start --models all --model-store model_store --frontend python
    """
    if as_json and foreground:
        raise click.UsageError("--json and --foreground do not go together: the logs are no JSON")
    from serving.control import StartOptions, StateFolder

    wanted = (*models, *archives)
    options = StartOptions(
        server,
        wanted,
        model_store,
        ts_config,
        workers,
        port,
        timeout,
        foreground=foreground,
        stock_worker=stock_worker,
        require_signature=require_signature,
        enable_model_api=enable_model_api,
        disable_token_auth=disable_token_auth,
        restore=restore,
        snapshots=not no_snapshots,
        frontend=frontend,
        single_port=single_port,
    )
    if foreground:
        in_foreground(options, StateFolder(server), quiet=quiet)
    else:
        begin_and_report(options, quiet=quiet, as_json=as_json)


def begin_and_report(options: StartOptions, *, quiet: bool, as_json: bool) -> None:
    """Start a server, and show what it serves and where."""
    from serving.control import StateFolder
    from serving.control import start as begin

    state = StateFolder(options.name)
    with traceback_shown(), _waiting(quiet or as_json) as progress:
        started = begin(options, state, progress, None, warn)
    if as_json or not quiet:
        _report(started, state, as_json=as_json)


def in_foreground(options: StartOptions, state: StateFolder, *, quiet: bool = False, empty: str = _EMPTY) -> None:
    """Run a server until it ends, or a signal ends it.

    Args:
        options: what to start.
        state: where to remember it.
        quiet: do not say what was started.
        empty: what to say where it serves no model.
    """
    from serving.control import start as begin

    def stay(started: Started) -> None:
        if not quiet:
            _report(started, state, empty=empty)
        _stay(started.process, state)

    with traceback_shown():
        begin(options, state, meanwhile=stay, warn=warn)


def _report(started: Started, state: StateFolder, *, as_json: bool = False, empty: str = _EMPTY) -> None:
    """Print what was started; the server runs, whether or not the output can be read."""
    from dataclasses import asdict

    try:
        if as_json:
            models = [asdict(model) for model in started.models]
            print_json(asdict(started.record) | {"models": models, "seconds": round(started.seconds, 3)})
        else:
            _print_started(started, state, empty)
        sys.stdout.flush()
    except OSError as error:
        discard_output()
        reason = error.strerror or str(error)
        warn(f"the server runs, but standard output takes nothing: {reason}")


def warn(text: str) -> None:
    """Show a warning."""
    click.echo(f"warning: {printable(text)}", err=True)


def _waiting(quiet: bool) -> AbstractContextManager[Callable[[float, str], None]]:
    """Show a line that says what is waited for: alive on a terminal, one line a change elsewhere."""
    if quiet:
        return nullcontext(lambda _seconds, _text: None)
    if not sys.stderr.isatty():
        shown: list[str] = []

        def line(_seconds: float, text: str) -> None:
            if text not in shown:
                shown.append(text)
                click.echo(f"{text} ...", err=True)

        return nullcontext(line)

    return _spinner()


@contextmanager
def _spinner() -> Iterator[Callable[[float, str], None]]:
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True).status("starting the frontend") as shown:
        yield lambda seconds, text: shown.update(Text(f"{text} ").append(f"{seconds:.0f} s", style="dim"))


def _print_started(started: Started, state: StateFolder, empty: str) -> None:
    from serving.control.keys import current_key
    from serving.control.state import named

    record, models = started.record, started.models
    if started.snapshot:
        click.echo(f"restored from the snapshot {started.snapshot}")
    names = [model.name for model in models]
    for model in models:
        plural = "" if model.ready_workers == 1 else "s"
        default = ", the default version" if model.default and names.count(model.name) > 1 else ""
        click.echo(f"{model.name} {model.version} is ready: {model.ready_workers} worker{plural}{default}")
    click.echo(f"started in {started.seconds:.1f} s ({record.whereabouts})")
    click.echo(f"  inference   {record.inference}")
    click.echo(f"  management  {record.management}")
    if metrics := _metrics_at(record):
        click.echo(f"  metrics     {metrics}")
    click.echo(f"  logs        {record.log_folder}")
    name = named(record.name)
    header = ""
    if current_key(record, state, "inference"):
        click.echo(f"  keys        torchmar keys{name}")
        # The command rather than the key: a terminal keeps what it has shown, and a key expires.
        header = f' -H "Authorization: Bearer $(torchmar keys --inference{name})"'
    if models:
        click.echo(f"try: curl{header} {_for_curl(record.inference)}/predictions/{models[0].name} -T FILE")
    else:
        click.echo(empty)


def _metrics_at(record: ServerRecord) -> str:
    """Tell where the metrics are read: a browser can be given it, unless it is a socket. Empty where there are none."""
    from serving.client import Address

    if not record.metrics or Address(record.metrics).socket_path:
        return record.metrics
    return f"{record.metrics}/metrics"


def _for_curl(address: str) -> str:
    """Write an address as curl takes it on this machine, before a path."""
    from serving.client import Address

    at = Address(address)
    if at.socket_path:
        return f"--unix-socket {shlex.quote(at.socket_path)} {at.base_url}"
    # Who listens everywhere listens here, and nobody can be sent to everywhere.
    return at.base_url.replace("//0.0.0.0", "//127.0.0.1", 1).replace("//[::]", "//[::1]", 1)


def _stay(process: Any, state: StateFolder) -> None:
    """Wait for the server's end; a signal is an exception (see archive_tool.cli.entry), on which start ends it."""
    from archive_tool.exit_codes import how_it_ended
    from serving.control import stop as end
    from serving.control.following.waiting import STOPPED_CODES
    from serving.control.processes import wait
    from serving.errors import NotRunningError, StartError

    code = wait(process)
    with suppress(NotRunningError):
        end(state)
    if code not in (0, *STOPPED_CODES):
        raise StartError(f"the frontend {how_it_ended(code)}", where=str(state.logs))


@click.command()
@click.option("--all", "every", is_flag=True, help="Stop every server that torchmar start began.")
@quiet_option
@json_option
@timeout_option(30.0)
@name_option
def stop(every: bool, quiet: bool, as_json: bool, timeout: float, server: str) -> None:
    """Stop the server that start began.

    Ends the frontend and all its workers and removes what they used; the logs stay.

    \b
    Examples:
      torchmar stop
      torchmar stop --name second
      torchmar stop --all
    """
    from serving.control import StateFolder
    from serving.control import stop as end
    from serving.control.state import known_servers
    from serving.errors import NotRunningError

    folders = known_servers() if every else [StateFolder(server)]
    if not folders:
        raise NotRunningError("no server is running", hint="torchmar start begins one")
    rows: list[dict[str, Any]] = []
    for state in folders:
        try:
            killed = end(state, grace_s=timeout)
        except NotRunningError as error:
            if not every:
                raise
            click.echo(error.message, err=True)  # one that had died keeps none of the others from being stopped
            rows.append({"name": state.name, "stopped": False, "killed": 0})
            continue
        rows.append({"name": state.name, "stopped": True, "killed": killed})
        if not quiet and not as_json:
            click.echo(f"stopped {state.name}" + (f" ({killed} processes had to be killed)" if killed else ""))
    if as_json:
        print_json(rows)


@click.command()
@json_option
@name_option
def status(as_json: bool, server: str) -> None:
    """Show whether the server runs, where, and how it is.

    Exit code 0 when it runs and calls itself healthy, 6 when it runs but is not healthy, 7 when it does not run.

    \b
    Examples:
      torchmar status
      torchmar status --name second --json
    """
    from dataclasses import asdict

    from serving.control import StateFolder
    from serving.control.state import not_running
    from serving.errors import NotRunningError, ServingError

    state = StateFolder(server)
    record = state.record()
    if record is None:
        raise not_running(server)
    if not record.alive:
        raise NotRunningError(
            f"server {server!r} ended by itself",
            where=record.log_folder,
            hint="torchmar start begins it anew",
        )
    with inference_client(server, None, 10.0) as client:
        healthy = client.ping()
    traffic: dict[str, Mapping[str, TrafficShare]] = {}
    if record.frontend != "java":  # which has none
        with management_client(server, None, 10.0) as management:
            traffic = {row.name: row.traffic for row in management.models() if row.traffic}
    if as_json:
        shares = {name: {version: asdict(share) for version, share in of.items()} for name, of in traffic.items()}
        print_json(asdict(record) | {"healthy": healthy, "traffic": shares})
    else:
        click.echo(f"{server} is {'healthy' if healthy else 'NOT healthy'} ({record.whereabouts})")
        labels = ("inference", "management", "metrics", "grpc_inference", "frontend", "worker")
        for label in (*labels, "model_store", "log_folder"):
            if value := _metrics_at(record) if label == "metrics" else getattr(record, label):
                click.echo(f"  {label.replace('_', ' '):<15}{value}")
        if record.trusted_store:
            click.echo(f"  {'signed with':<15}{state.signature_key}")
        for name, of in traffic.items():
            for version, share in of.items():
                click.echo(f"  {'share':<15}{printable(f'{name} {version}')}: {share}")
    if not healthy:
        raise ServingError(
            f"server {server!r} is not healthy: a model has fewer workers than it wants",
            where=record.log_folder,
            hint="torchmar models shows which",
        )


@click.command()
def env() -> None:
    """Print the shell lines that the stock torchserve command needs.

    The stock command looks for Java in JAVA_HOME; this names the runtime that was installed with torchmar. Which
    worker it uses is another matter: see torchmar home.

    \b
    Examples:
      eval "$(torchmar env)"
    """
    from serving.control.configuration.java import java_home

    click.echo(f"export JAVA_HOME={shlex.quote(str(java_home()))}")


@click.command()
def home() -> None:
    """Print the folder that holds torchmar's worker.

    For other ways to start a server: TorchServe's frontend looks for its worker where the environment variable
    TS_MODEL_SERVER_HOME says. torchmar start uses torchmar's worker by itself.

    \b
    Examples:
      TS_MODEL_SERVER_HOME="$(torchmar home)" torchserve --start --ncs --model-store model_store --models mnist.mar
    """
    from serving.control.configuration.java import worker_home

    click.echo(str(worker_home()))
