"""The commands of `torchmar` that begin with what is there: an older archive, or a folder with a model."""

from __future__ import annotations

from pathlib import Path

import click

from archive_tool.commands import show_built


@click.command()
@click.argument("archive", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The new archive: NAME.mar or NAME.tar.gz.")
@click.option("-f", "--force", is_flag=True, help="Replace an archive that is there.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing on success.")
def convert(archive: Path, output: Path | None, force: bool, quiet: bool) -> None:
    """Turn an archive of MXNet Model Server into one for TorchServe.

    All files of ARCHIVE are kept and its code stays as it is; the manifest is written anew. Without --output the new
    archive is NAME-converted.mar beside the old one. What cannot run beside TorchServe, such as an import of mxnet, is
    told.

    \b
    Examples:
      torchmar convert fizbuz_package.mar
      torchmar convert fizbuz_package.mar -o model_store/fizbuz_package.mar
    """
    from archive_tool.convert import convert as run

    show_built(run(archive, output, force=force), quiet=quiet)
