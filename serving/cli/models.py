"""Commands: models, register, scale, set-default, traffic, unregister."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING

import click

from archive_tool.cli.output import printable
from serving.cli.options import (
    complete_archives,
    complete_models,
    complete_versions,
    console,
    json_option,
    management_client,
    management_option,
    name_option,
    print_json,
    running,
    timeout_option,
    token_file_option,
    traceback_shown,
)

if TYPE_CHECKING:
    from pathlib import Path

    from serving.client import ModelVersion


@click.command()
@click.argument("model", required=False, shell_complete=complete_models)
@json_option
@management_option
@token_file_option
@name_option
def models(model: str | None, as_json: bool, management: str | None, token_file: Path | None, server: str) -> None:
    """List the models, versions and workers of the server.

    \b
    Examples:
      torchmar models
      torchmar models mnist --json
      torchmar models --management http://127.0.0.1:8081
    """
    from serving.errors import ReplyError

    with management_client(server, management, 30.0, token_file) as client:
        if model:
            found = list(client.describe(model))
        else:
            found = []
            for row in client.models():
                try:
                    found += client.describe(row.name)
                except ReplyError as error:  # removed meanwhile, or a name that no URL can hold
                    click.echo(f"warning: {printable(row.name)} cannot be described: {error.message}", err=True)
    found = _with_memory(found)
    if as_json:
        _print_json(found)
    else:
        print_models(found)


def _print_json(found: Sequence[ModelVersion]) -> None:
    from dataclasses import asdict

    print_json([asdict(version) for version in found])


def print_models(found: Sequence[ModelVersion]) -> None:
    """Print a table of models, one row per version."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    shares = any(version.traffic for version in found)
    for title in ("model", "version", "archive", "workers", "ready", "batch", "pids", "memory", *["share"] * shares):
        table.add_column(title, justify="right" if title in ("workers", "ready", "batch", "memory") else "left")
    names = [version.name for version in found]
    marked = {name for name in names if names.count(name) > 1}
    for version in found:
        memory = sum(worker.memory_bytes for worker in version.workers)
        table.add_row(
            Text(version.name),  # plain text: brackets of a name are not markup
            Text(version.version + (" *" if version.default and version.name in marked else "")),
            Text(version.url),
            str(len(version.workers)),
            str(version.ready_workers),
            str(version.batch_size),
            " ".join(str(worker.pid) for worker in version.workers if worker.pid > 0),
            f"{memory / 1e6:.0f} MB" if memory else "",
            *[Text(str(version.traffic or ""))] * shares,
        )
    console().print(table if found else "no models")
    if marked:
        click.echo("* is the version that requests without one reach" + ", but for the shares" * shares)


def _with_memory(found: Sequence[ModelVersion]) -> list[ModelVersion]:
    """Return the versions with the current memory of local workers; the frontend's figures are a minute old."""
    from dataclasses import replace

    now = _memory_now(found)
    return [
        replace(
            version,
            workers=tuple(
                replace(worker, memory_bytes=now.get(worker.pid, worker.memory_bytes)) for worker in version.workers
            ),
        )
        for version in found
    ]


def _memory_now(found: Sequence[ModelVersion]) -> dict[int, int]:
    """Return the memory of a local server's workers in bytes, by pid; the frontend's figures are a minute old."""
    import psutil

    from serving.worker.process.rendezvous import OWNER
    from serving.worker.scripts import collector

    servers: dict[int, list[int]] = {}
    for pid in {worker.pid for version in found for worker in version.workers if worker.pid > 0}:
        with suppress(psutil.Error, OSError):
            process = psutil.Process(pid)
            parent = process.parent()
            # Else it is of another machine.
            if parent is not None and (
                parent.name().startswith("java") or process.environ().get(OWNER) == f"{parent.pid}"
            ):
                servers.setdefault(parent.pid, []).append(pid)
    sizes = (collector.sizes(pids, collector.backends(server)) for server, pids in servers.items())
    return {pid: size for found_there in sizes for pid, size in found_there if size}


@click.command()
@click.argument("archive", shell_complete=complete_archives)
@click.option("--model-name", metavar="NAME", help="Name of the model; by default the one in the archive.")
@click.option(
    "--workers", type=click.IntRange(min=0), help="Workers to start; by default what the archive says, else 1."
)
@click.option("--batch-size", type=click.IntRange(min=1), help="Requests in a batch at the most.")
@click.option("--max-batch-delay", type=click.IntRange(min=0), help="Milliseconds to wait for a batch to fill.")
@click.option("--response-timeout", type=click.IntRange(min=1), help="Seconds that a worker may take for a batch.")
@json_option
@management_option
@token_file_option
@timeout_option(300.0)
@name_option
def register(
    archive: str,
    model_name: str | None,
    workers: int | None,
    batch_size: int | None,
    max_batch_delay: int | None,
    response_timeout: int | None,
    as_json: bool,
    management: str | None,
    token_file: Path | None,
    timeout: float,
    server: str,
) -> None:
    """Register an archive with the running server.

    ARCHIVE is a file of the server's model store, or a URL that its allowed_urls match, and the server one that was
    started with --enable-model-api. Returns when the workers are ready; if one fails to load the model, its own error
    is shown and the model is not registered. A server that was started with --require-signature takes only what was
    signed with that key.

    \b
    Examples:
      torchmar register mnist_scripted.mar
      torchmar register mnist_v2.mar --model-name mnist --workers 2
    """
    from archive_tool.metadata.names import check_model_name
    from serving.control import registration
    from serving.control.models.store import name_for_unknown_store
    from serving.control.state import StateFolder

    if model_name:
        check_model_name(model_name)
    asked = registration.Asked(workers, batch_size, max_batch_delay, response_timeout)
    record = running(server) if management is None else None
    name = model_name
    if record:
        registration.check_model_api(record, StateFolder(server))
        archive, name = registration.prepare(record, StateFolder(server), archive, asked, model_name)
    else:
        archive = name_for_unknown_store(archive)
    with (
        traceback_shown(),
        management_client(server, management, timeout, token_file) as client,
        registration.explained(record, name or archive),
        registration.rolled_back(client, name) if name else nullcontext(),
    ):
        message = registration.register(client, archive, asked, name=model_name)
        if as_json:
            _print_json(client.describe(*_registered(message, name or archive)))
    if not as_json:
        click.echo(message)


def _registered(message: str, name: str) -> tuple[str, str | None]:
    """Return name and version from the frontend's sentence: only it knows them if the archive is not here to read."""
    found = re.match(r'Model "(.+)" Version: (.+?) registered', message)
    return (found[1], found[2]) if found else (name, None)


@click.command()
@click.argument("model", shell_complete=complete_models)
@click.option("--min-workers", type=click.IntRange(min=0), required=True, metavar="N", help="Workers to run.")
@click.option("--max-workers", type=click.IntRange(min=0), metavar="N", help="Upper bound; by default the same.")
@click.option("--version", metavar="V", help="Version of the model; by default the default one.")
@json_option
@management_option
@token_file_option
@timeout_option(300.0)
@name_option
def scale(
    model: str,
    min_workers: int,
    max_workers: int | None,
    version: str | None,
    as_json: bool,
    management: str | None,
    token_file: Path | None,
    timeout: float,
    server: str,
) -> None:
    """Set a model's number of workers.

    Returns when they are ready.

    \b
    Examples:
      torchmar scale mnist --min-workers 2
      torchmar scale mnist --min-workers 1 --version 2.0
      torchmar scale mnist --min-workers 1 --max-workers 4
    """
    if max_workers is not None and max_workers < min_workers:
        raise click.UsageError(f"--max-workers {max_workers} is less than --min-workers {min_workers}")
    from serving.control.registration import explained
    from serving.errors import ReplyError

    record = running(server) if management is None else None
    with (
        traceback_shown(),
        management_client(server, management, timeout, token_file) as client,
        explained(record, model),
    ):
        before = [v.min_workers for v in client.describe(model, version) if version or v.default]
        try:
            client.scale(model, min_workers=min_workers, max_workers=max_workers, version=version)
        except ReplyError as error:
            if error.status == 0 and before:  # no answer in time
                error.hint = (
                    f"the server goes on with it; torchmar scale {model} --min-workers {before[0]} takes it back"
                )
            raise
        found = [v for v in client.describe(model, version) if version or v.default]
    if as_json:
        _print_json(_with_memory(found))
        return
    for entry in found:
        click.echo(f"{entry.name} {entry.version}: {entry.ready_workers} of {len(entry.workers)} workers ready")


@click.command("set-default")
@click.argument("model", shell_complete=complete_models)
@click.argument("version", shell_complete=complete_versions)
@management_option
@token_file_option
@name_option
def set_default(model: str, version: str, management: str | None, token_file: Path | None, server: str) -> None:
    """Make a version of a model the default one.

    \b
    Examples:
      torchmar set-default mnist 2.0
    """
    with management_client(server, management, 30.0, token_file) as client:
        click.echo(client.set_default(model, version))


@click.command()
@click.argument("model", shell_complete=complete_models)
@click.argument("version", shell_complete=complete_versions)
@click.option(
    "--percent", type=click.IntRange(0, 100), required=True, metavar="N", help="Share of these requests; 0 ends it."
)
@click.option("--shadow", is_flag=True, help="Give it copies of them, whose answers nobody sees.")
@click.option(
    "--sticky-header",
    "sticky",
    multiple=True,
    metavar="NAME",
    help="Requests with the same value of this header go to the same version; of several the first that a request has "
    "counts. By default as before, which is at random at first; '' for at random again.",
)
@json_option
@management_option
@token_file_option
@name_option
def traffic(
    model: str,
    version: str,
    percent: int,
    shadow: bool,
    sticky: tuple[str, ...],
    as_json: bool,
    management: str | None,
    token_file: Path | None,
    server: str,
) -> None:
    """Give a version a share of the requests that name none.

    The default version answers the others. With --shadow it answers all of them, and VERSION gets copies. A version
    that has no ready worker gets nothing. set-default ends the share of the version that it makes the default one. The
    server must have been started with --frontend python.

    \b
    Examples:
      torchmar traffic mnist 2.0 --percent 5
      torchmar traffic mnist 2.0 --percent 20 --sticky-header x-user-id
      torchmar traffic mnist 2.0 --percent 100 --shadow
      torchmar traffic mnist 2.0 --percent 0
    """
    with management_client(server, management, 30.0, token_file) as client:
        message = client.share(model, version, percent=percent, shadow=shadow, sticky_headers=sticky or None)
        if as_json:
            _print_json(client.describe(model, version))
        else:
            click.echo(message)


@click.command()
@click.argument("model", shell_complete=complete_models)
@click.option("--version", metavar="V", help="Only this version; by default all.")
@management_option
@token_file_option
@timeout_option(120.0)
@name_option
def unregister(
    model: str, version: str | None, management: str | None, token_file: Path | None, timeout: float, server: str
) -> None:
    """Remove a model, or one version of it.

    The archive stays in the model store. The server must have been started with --enable-model-api.

    \b
    Examples:
      torchmar unregister mnist
      torchmar unregister mnist --version 1.0
    """
    from serving.errors import ReplyError

    with management_client(server, management, timeout, token_file) as client:
        if version:
            try:
                click.echo(client.unregister(model, version))
            except ReplyError as error:
                if error.status == 403:  # TorchServe keeps the default version while there are others
                    error.hint = f"make another one the default first: torchmar set-default {model} VERSION"
                raise
            return
        versions = client.describe(model)
        for entry in sorted(versions, key=lambda entry: entry.default):
            click.echo(f"{client.unregister(model, entry.version)}, version {entry.version}")
