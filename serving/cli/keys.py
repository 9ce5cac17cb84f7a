"""Command: keys."""

from __future__ import annotations

import json
from typing import Literal

import click

from serving.cli.options import json_option, name_option, running


@click.command()
@click.option("--inference", "only", flag_value="inference", help="Print nothing but the key of the inference API.")
@click.option("--management", "only", flag_value="management", help="Print nothing but the key of the management API.")
@json_option
@name_option
def keys(only: Literal["inference", "management"] | None, as_json: bool, server: str) -> None:
    """Show the keys that the server asks for.

    A request carries the key of its API in the header Authorization. Keys expire (token_expiration_min, an hour by
    default); one that has is renewed here. torchmar's own commands find them by themselves. A client with the
    management key of a server with its model API on can make it run code.

    \b
    Examples:
      torchmar keys
      curl -H "Authorization: Bearer $(torchmar keys --inference)" http://127.0.0.1:8080/predictions/mnist -T FILE
      TORCHMAR_TOKEN=$(torchmar keys --management) torchmar models --management http://127.0.0.1:8081
    """
    from archive_tool.errors import InputError
    from serving.control import StateFolder
    from serving.control.keys import current_keys
    from serving.control.state import not_running

    record = running(server)
    if record is None:
        raise not_running(server)
    state = StateFolder(server)
    found = {key.kind: key for key in current_keys(record, state)}
    if not found:
        raise InputError(
            f"server {server!r} asks for no keys",
            hint="they are on with --enable-model-api at its start, or disable_token_authorization=false in "
            "config.properties",
        )
    if only:
        click.echo(found[only].text)
    elif as_json:
        entries = {kind: {"key": key.text, "expires": key.expires or None} for kind, key in found.items()}
        click.echo(json.dumps(entries | {"file": str(state.keys)}, indent=2))
    else:
        width = max(len(key.text) for key in found.values())
        for kind, key in found.items():
            # Java writes nanoseconds.
            use = f"until {key.expires[:16].replace('T', ' ')} UTC" if key.expires else "renews the others"
            click.echo(f"{kind:<12}{key.text:<{width}}  {use}")
        click.echo(f"{'file':<12}{state.keys}")
