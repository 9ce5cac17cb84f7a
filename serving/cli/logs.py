"""Command: logs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from serving.cli.options import complete_models, name_option

if TYPE_CHECKING:
    from serving.control import StateFolder
    from serving.control.following.logs import Event


@click.command()
@click.argument("model", required=False, shell_complete=complete_models)
@click.option("--id", "marked", metavar="ID", help="Only what has this id of an error or a request, and its traceback.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until the server ends.")
@click.option("-n", "--lines", type=click.IntRange(min=0), metavar="N", help="Only the last N events.")
@name_option
def logs(model: str | None, marked: str | None, follow: bool, lines: int | None, server: str) -> None:
    """Show what a server and its models have logged.

    Of the last start of the server, whether or not it still runs. With MODEL only what that model's workers printed.
    An answer that failed names an id: --id shows its traceback. On a terminal control characters are shown escaped.

    \b
    Examples:
      torchmar logs
      torchmar logs mnist --follow
      torchmar logs --id 5f0c2e1d
      torchmar logs --name second --lines 20
    """
    if follow and marked is not None:
        raise click.UsageError("--id and --follow do not go together: an id is of something that has happened")
    from archive_tool.errors import InputError
    from serving.control import StateFolder
    from serving.control.following import logs as reader
    from serving.errors import NotRunningError

    state = StateFolder(server)
    if not state.logs.is_dir():
        raise NotRunningError(f"server {server!r} was never started", hint="torchmar start begins one")
    if follow:

        def running() -> bool:
            record = state.record()
            return record is not None and record.alive

        for event in reader.follow(state.logs, running, model, lines):
            _show(event)
        return
    found = reader.read(state.logs, model, marked)
    for event in reader.newest(found, lines):
        _show(event)
    if not found and marked is not None:
        raise InputError(
            f"nothing in the logs of server {server!r} has {marked!r} in it",
            where=str(state.logs),
            hint=f"the logs are those of the server's last start{_elsewhere(state)}",
        )
    if not found and model is not None:
        others = ", ".join(reader.models(state.logs))
        raise InputError(
            f"no worker of a model {model!r} has printed anything",
            where=str(state.logs),
            hint=f"these have, by model and version: {others}" if others else None,
        )


def _elsewhere(state: StateFolder) -> str:
    """Return where else logs may be, as the end of a hint."""
    record = state.record()
    if record is None or record.frontend != "ray":
        return ""
    return "; replicas of other nodes have theirs in Ray's: ray logs cluster 'serve/replica_*' --node-ip IP"


def _show(event: Event) -> None:
    from serving.control.following.forms import visible

    # What reads a pipe is to have what is in the log, from which click would take colours.
    text = visible(event.text) if sys.stdout.isatty() else event.text
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()
