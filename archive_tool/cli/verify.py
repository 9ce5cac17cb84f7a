"""The command `torchmar verify`: checks whether archives can be trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from archive_tool.cli.options import allow_pickle_option
from archive_tool.cli.output import printable

if TYPE_CHECKING:
    from archive_tool.verification.verify import Verification


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

    Reads every byte and runs nothing. Checks whether the members are those that the manifest records, whether unpacking
    would write elsewhere or without bound, whether every reader finds the same in the file, and whether loading the
    weights would run code.

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
