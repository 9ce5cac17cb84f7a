"""The commands of `torchmar` that begin with what is there: an older archive, or a folder with a model."""

from __future__ import annotations

from pathlib import Path

import click

from archive_tool.cli.build import show_built
from archive_tool.cli.entry import printable


@click.command()
@click.argument("archive", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The new archive: NAME.mar or NAME.tar.gz.")
@click.option("-f", "--force", is_flag=True, help="Replace an archive that is there.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing on success.")
def convert(archive: Path, output: Path | None, force: bool, quiet: bool) -> None:
    """Turn an older archive into one for TorchServe.

    Of an archive of MXNet Model Server all files are kept and its code stays as it is; the manifest is written anew.
    What cannot run beside TorchServe, such as an import of mxnet, is told. An archive for TorchServe gets the handler
    SDK that is installed here in the place of its older copy, which torchmar inspect tells of; all else of it stays.
    Without --output the new archive is NAME-converted.mar beside the old one.

    \b
    Examples:
      torchmar convert fizbuz_package.mar
      torchmar convert fizbuz_package.mar -o model_store/fizbuz_package.mar
      torchmar convert model_store/mnist.mar -o model_store/mnist.mar --force
    """
    from archive_tool.projects.convert import convert as run

    show_built(run(archive, output, force=force), quiet=quiet)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path())
@click.option("--kind", help="tensor, image or custom.  [default: told from the files]")
@click.option("-f", "--force", is_flag=True, help="Replace a project file that is there.")
def init(folder: Path, kind: str | None, force: bool) -> None:
    """Write a project file for the model in a folder.

    FOLDER, the current one if left out, holds the model: weights with the Python file of their class, or TorchScript,
    ONNX or a .pt2 file. Nothing of it is run. If there is no handler, one is written that fits. The archive can be
    built at once; the files say what can be changed.

    \b
    Kinds:
      tensor   numbers in, numbers out, no code
      image    a picture in, labels out; taken where there is an index_to_name.json
      custom   hooks of your own before and behind the model

    \b
    Examples:
      torchmar init
      torchmar init resnet --kind image
    """
    from archive_tool.projects.starter import start

    started = start(folder, kind=kind, force=force)
    for path in started.written:
        click.echo(printable(str(path)))
    click.echo(f"build it: torchmar build --from {printable(str(started.project))}")
