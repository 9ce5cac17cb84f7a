"""Commands that serve in this process: dev, console."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import click

from archive_tool.cli.options import allow_pickle_option
from archive_tool.cli.output import printable
from serving.cli.options import PortType, name_option, running


@click.command()
@click.argument("target", metavar="HANDLER_OR_FOLDER", type=click.Path(path_type=Path))
@click.option("--port", type=PortType(), default=8080, show_default=True, help="Port, or auto for a free one.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--model-name", help="Name of the model.  [default: the project file's, else the handler's]")
@click.option("--serialized-file", help="Weights, TorchScript, ONNX or .pt2 file.")
@click.option("--model-file", help="Python file with the model's class; needed with weights.")
@click.option("--extra-files", multiple=True, help="Further files, as for torchmar build. May be repeated.")
@click.option("--config-file", help="Model-config YAML file.")
@allow_pickle_option
def dev(
    target: Path,
    port: int | Literal["auto"],
    device: str,
    allow_pickles: tuple[str, ...],  # noqa: ARG001 (what it accepts is accepted anyway)
    **given: str | tuple[str, ...] | None,
) -> None:
    """Serve a model while you write it.

    HANDLER_OR_FOLDER is a handler's Python file, a folder with a torchmar.yaml, which names handler, weights and
    further files, one that save_pretrained wrote, or an unpacked archive. It answers at
    http://127.0.0.1:PORT/predictions/NAME, in a worker's process, without Java. Save a file, and the next request is
    answered by what you saved; a request that comes meanwhile waits. What goes wrong is answered with status 500 and
    the traceback. Ctrl-C ends it.

    For development: one request at a time, on this machine only. The files are yours, so also those that run code when
    they are loaded are loaded; --allow-pickle is there because run and check of the archive need it.

    \b
    Examples:
      torchmar dev handler.py
      torchmar dev handler.py --model-file model.py --serialized-file weights.pt --port auto
      torchmar dev my_model
    """
    from serving.local.dev import DevOptions, serve

    def tell(line: str, is_error: bool) -> None:
        # A handler's prints and tracebacks are untrusted text.
        click.echo("\n".join(map(printable, line.split("\n"))), err=is_error)

    def ready(address: str, name: str) -> None:
        tell(f"{target}: curl {address}/predictions/{name} -T FILE (Ctrl-C ends it)", False)

    options = {name: value for name, value in given.items() if value}
    serve(DevOptions(target, 0 if port == "auto" else port, device, options), tell, ready)


@click.command()
@click.option("--port", type=PortType(), default=8083, show_default=True, help="Port, or auto for a free one.")
@name_option
def console(port: int | Literal["auto"], server: str) -> None:
    """Show a server in a browser.

    Models, versions and workers with live numbers, the logs, and a page on which a model is tried. The Python frontend
    has this console itself, at /console of its management API: there the command names the address. Beside Java's
    frontend it serves it at http://127.0.0.1:PORT/console, until Ctrl-C. Where the server asks for keys, so does the
    console.

    \b
    Examples:
      torchmar console
      torchmar console --name second --port auto
    """
    from serving.control import StateFolder
    from serving.control.configuration.config import read_properties
    from serving.control.configuration.settings import is_true
    from serving.control.state import not_running

    state, record = StateFolder(server), running(server)
    if record is None:
        raise not_running(server)
    properties = read_properties(state.config) if state.config.is_file() else {}
    off = "torchmar_console" in properties and not is_true(properties, "torchmar_console")
    if record.frontend == "python" and not off and record.management.startswith("http"):
        click.echo(f"{record.management}/console")
        return
    from serving.local.console import serve

    def ready(address: str) -> None:
        click.echo(printable(f"{address} (Ctrl-C ends it)"))

    serve(record, state, 0 if port == "auto" else port, ready)
