"""The command `torchmar sign`: writes a signature beside an archive."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from archive_tool.cli.output import printable
from archive_tool.errors import InputError

#: The variable with the password of an encrypted private key; without it there is a prompt.
PASSWORD_VARIABLE = "TORCHMAR_KEY_PASSWORD"  # noqa: S105


@click.command()
@click.argument("archive", type=click.Path(path_type=Path))
@click.option("--key", required=True, type=click.Path(path_type=Path), metavar="PRIVATE", help="The private key.")
@click.option("-f", "--force", is_flag=True, help="Replace a signature that is there.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing on success.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def sign(archive: Path, key: Path, force: bool, quiet: bool, as_json: bool) -> None:
    """Sign an archive.

    The signature is ARCHIVE.sig, beside it, in the format of OpenSSF model signing; the archive stays as it is. PRIVATE
    is a PEM file with an elliptic-curve key. The password of an encrypted key is asked for, or taken from
    TORCHMAR_KEY_PASSWORD. No network is needed.

    \b
    Keys are made with OpenSSL:
      openssl ecparam -name prime256v1 -genkey -noout -out key.pem
      openssl ec -in key.pem -pubout -out public.pem

    \b
    Examples:
      torchmar sign mnist.mar --key key.pem
    """
    from archive_tool.verification.signing import sign as run

    path = run(archive, key, password=_password(key), force=force)
    if as_json:
        click.echo(json.dumps({"archive": str(archive), "signature": str(path)}, indent=2))
    elif not quiet:
        click.echo(printable(str(path)))


def _password(key: Path) -> str | None:
    from archive_tool import files

    try:
        encrypted = b"ENCRYPTED" in files.read_regular(key, files.MAX_KEY)
    except OSError as error:
        raise InputError(f"the key {key} cannot be read: {error.strerror}", where=str(key)) from error
    if not encrypted:
        return None
    return os.environ.get(PASSWORD_VARIABLE) or click.prompt(f"password of {key}", hide_input=True, err=True)
