"""The command `torchmar convert`: converts an older archive for TorchServe."""

from __future__ import annotations

from pathlib import Path

import click

from archive_tool.cli.output import show_built


@click.command()
@click.argument("archive", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The new archive: NAME.mar or NAME.tar.gz.")
@click.option("-f", "--force", is_flag=True, help="Replace an archive that is there.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing on success.")
def convert(archive: Path, output: Path | None, force: bool, quiet: bool) -> None:
    """Turn an older archive into one for TorchServe.

    Keeps all files of an archive of MXNet Model Server, its code as it is, and writes a new manifest. Reports what
    cannot run with TorchServe, such as an import of mxnet. In an archive for TorchServe, replaces an older copy of the
    handler SDK, as torchmar inspect reports it, by the installed one; the rest stays. Without --output the new archive
    is NAME-converted.mar beside the old one.

    \b
    Examples:
      torchmar convert fizbuz_package.mar
      torchmar convert fizbuz_package.mar -o model_store/fizbuz_package.mar
      torchmar convert model_store/mnist.mar -o model_store/mnist.mar --force
    """
    from archive_tool.projects.convert import convert as run

    show_built(run(archive, output, force=force), quiet=quiet)
