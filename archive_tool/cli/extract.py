"""The command `torchmar extract`: unpacks an archive into a folder."""

from __future__ import annotations

from pathlib import Path

import click

from archive_tool.cli.options import allow_pickle_option
from archive_tool.cli.output import human_size, printable


@click.command()
@click.argument("archive", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@allow_pickle_option
@click.option("-q", "--quiet", is_flag=True, help="Print nothing on success.")
def extract(archive: Path, folder: Path, allow_pickles: tuple[str, ...], quiet: bool) -> None:
    """Unpack an archive into a new folder.

    FOLDER must not exist, or be empty. What torchmar verify finds wrong is refused here too, with the same exit code.
    If anything fails, nothing is left.

    \b
    Examples:
      torchmar extract model_store/mnist.mar mnist
    """
    from archive_tool.verification.extraction import open_archive

    with open_archive(archive) as opened:
        opened.extract(folder, allow_pickles=allow_pickles)
        size = sum(member.size for member in opened.members)
        if not quiet:
            click.echo(f"{printable(str(folder))}  {human_size(size)}  {len(opened.members)} members")
