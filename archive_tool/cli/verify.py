"""The commands of `torchmar` that tell whether an archive can be trusted: verify, sign, diff."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from archive_tool.cli.entry import printable
from archive_tool.errors import InputError

if TYPE_CHECKING:
    from archive_tool.inspection.diff import MemberChange
    from archive_tool.inspection.tensor_diff import TensorChange
    from archive_tool.verification.verify import Verification

#: Where the password of an encrypted private key is taken from, without a prompt.
PASSWORD_VARIABLE = "TORCHMAR_KEY_PASSWORD"  # noqa: S105

allow_pickle_option = click.option(
    "--allow-pickle",
    "allow_pickles",
    multiple=True,
    metavar="MEMBER",
    help="Accept that this member runs code when it is loaded. May be repeated.",
)


@click.command()
@click.argument("archives", nargs=-1, required=True, metavar="ARCHIVE...", type=click.Path(path_type=Path))
@click.option("--key", type=click.Path(path_type=Path), metavar="PUBLIC", help="Each must be signed; the public key.")
@allow_pickle_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing of what is good.")
def verify(
    archives: tuple[Path, ...], key: Path | None, allow_pickles: tuple[str, ...], as_json: bool, quiet: bool
) -> int:
    """Find everything that is wrong with archives.

    Reads every byte, and runs nothing: are the members those that the manifest records, would unpacking write
    elsewhere or without bound, does every reader find the same in the file, would loading the weights run code.

    Exit code 0 if all is good, 3 if an archive cannot be read, 4 if one was altered or is not signed, 5 if one is not
    safe to use; the worst one counts.

    \b
    Examples:
      torchmar verify model_store/*.mar
      torchmar verify mnist.mar --key publisher.pem
      torchmar verify mnist.mar --json
    """
    from archive_tool.issues import exit_code, worst
    from archive_tool.verification.verify import verify as run

    results = [run(archive, key=key, allow_pickles=allow_pickles) for archive in archives]
    kind = worst(issue for result in results for issue in result.issues)
    if as_json:
        status = kind.value if kind else "good"
        click.echo(json.dumps({"status": status, "archives": [result.to_dict() for result in results]}, indent=2))
    else:
        for result in results:
            _show(result, quiet=quiet)
    return exit_code(kind)


def _show(result: Verification, *, quiet: bool) -> None:
    path = printable(str(result.path))
    if result.kind is None:
        if quiet:
            return
        signed = ", signed" if result.signed else ""
        click.echo(f"{path}  good  {result.members} members{signed}")
    else:
        click.echo(f"{path}  {result.kind.value.upper()}")
    for issue in result.issues:
        click.echo(f"  {issue.kind.value}: {printable(issue.message)}")


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


@click.command()
@click.argument("first", metavar="A", type=click.Path(path_type=Path))
@click.argument("second", metavar="B", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def diff(first: Path, second: Path, as_json: bool) -> int:
    """Show in what two archives differ.

    Members that were added, removed or changed; of changed weights the tensors, with shapes, types and the largest
    difference; of changed text the lines. Weights are read as data only: none of their code is run. The archives may be
    of different formats, and folders.

    Exit code 0 if the members are the same, 1 if they differ.

    \b
    Examples:
      torchmar diff model_store/mnist.mar new/mnist.mar
      torchmar diff old.mar new.mar --json
    """
    from archive_tool.inspection.diff import diff as run

    changes = run(first, second)
    if as_json:
        click.echo(json.dumps(changes.to_dict(), indent=2))
    else:
        for change in changes.members:
            _show_change(change)
    return 1 if changes else 0


_SIGNS = {"added": "+", "removed": "-", "changed": "~"}


def _show_change(change: MemberChange) -> None:
    from archive_tool.cli.build import human_size

    sizes = " -> ".join(human_size(size) for size in (change.before, change.after) if size is not None)
    click.echo(f"{_SIGNS[change.status]} {printable(change.name)}  {change.status}  {sizes}")
    for tensor in change.tensors or ():
        click.echo(f"    {printable(_tensor_line(tensor))}")
    for line in change.text:
        click.echo(f"    {printable(line)}")
    if change.note:
        click.echo(f"    {printable(change.note)}")


def _tensor_line(change: TensorChange) -> str:
    if change.before is None:
        return f"+ {change.name}  {change.after}"
    if change.after is None:
        return f"- {change.name}  {change.before}"
    what = change.before if change.before == change.after else f"{change.before} -> {change.after}"
    largest = "" if change.largest is None else f"  largest difference {change.largest:.6g}"
    return f"~ {change.name}  {what}{largest}"
