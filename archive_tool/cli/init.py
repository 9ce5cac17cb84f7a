"""The command `torchmar init`: writes a project file for the model in a folder."""

from __future__ import annotations

from pathlib import Path

import click

from archive_tool.cli.output import printable


@click.command()
@click.argument("folder", type=click.Path(path_type=Path), default=Path())
@click.option("--kind", help="tensor, image or custom.  [default: chosen by the files]")
@click.option("-f", "--force", is_flag=True, help="Replace a project file that is there.")
def init(folder: Path, kind: str | None, force: bool) -> None:
    """Write a project file for the model in a folder.

    FOLDER, by default the current one, holds the model: weights with the Python file of their class, or TorchScript,
    ONNX or a .pt2 file; or it is a folder that save_pretrained wrote. Nothing of it is run. If there is no handler, a
    fitting one is written, unless the model needs none. The archive can be built at once; comments in the files say
    what can be changed.

    \b
    Kinds:
      tensor   numbers in, numbers out, no code
      image    an image in, labels out; taken where there is an index_to_name.json
      custom   hooks of your own before and after the model

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
