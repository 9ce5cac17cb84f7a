"""Command: serve, the entry point of images."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from serving.cli.options import FromEnvironment, timeout_option

if TYPE_CHECKING:
    from serving.image.layout import Layout

# Where this listens: the container's borders are its network's.
_HOST = "0.0.0.0"  # noqa: S104


@click.command()
@click.argument("word", required=False, type=click.Choice(["serve"]), metavar="[serve]")
@click.option("--model-name", "--model_name", metavar="NAME", help="What the model is called, in place of its archive.")
@click.option(
    "--model-dir",
    "--model_dir",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder that holds the archives; by default the first of the usual ones that holds anything.",
)
@click.option(
    "--http-port",
    "--http_port",
    type=click.IntRange(1, 65535),
    cls=FromEnvironment,
    envvar=["SAGEMAKER_BIND_TO_PORT", "PORT"],
    default=8080,
    show_default=True,
    help="Port of everything that is asked from outside; also from SAGEMAKER_BIND_TO_PORT or PORT.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    cls=FromEnvironment,
    envvar="SAGEMAKER_MODEL_SERVER_WORKERS",
    metavar="N",
    help="Workers of each model; also from SAGEMAKER_MODEL_SERVER_WORKERS.",
)
@click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default="/",
    show_default=True,
    metavar="DIR",
    help="Folder in place of /, to try a layout without a container.",
)
@click.option("--check", is_flag=True, help="Ask the server that runs whether it is ready: exit code 0 if it is.")
@timeout_option(600.0)
def serve(
    word: str | None,  # noqa: ARG001 (SageMaker says it)
    model_name: str | None,
    model_dir: Path | None,
    http_port: int,
    workers: int | None,
    root: Path,
    check: bool,
    timeout: float,
) -> None:
    """Serve what a container holds: the entry point of images.

    Serves the archives of /opt/ml/model (SageMaker), of /mnt/models (KServe; TorchServe's config and model-store, too)
    or of the image, with the Python frontend. Predictions, health and metrics share one port, on every address; the
    management API is a socket in the container, where torchmar status, models and keys find it.

    Requests need a key: TORCHMAR_INFERENCE_KEY, or the file that TORCHMAR_INFERENCE_KEY_FILE names; else one that
    changes each hour. With TORCHMAR_TRUSTED_NETWORK=1, as images for SageMaker and KServe have it, none does.

    \b
    Examples:
      torchmar serve --root try --http-port 9090
      torchmar serve --model-name mnist --model-dir models
      torchmar serve --check
    """
    if check:
        _check()
        return
    from serving.cli.servers import in_foreground
    from serving.control import StartOptions, StateFolder
    from serving.image import layout as layouts

    found = layouts.find(root, os.environ, model_dir=model_dir, model_name=model_name)
    trusted = layouts.is_trusted(os.environ)
    _tell(found, trusted=trusted, model_name=model_name)
    state = StateFolder()
    state.create()
    options = StartOptions(
        models=found.models,
        model_store=found.store or _empty_store(state.path / "loaded"),
        ts_config=_configured(found, http_port, state.path),
        workers=workers,
        timeout_s=timeout,
        foreground=True,
        snapshots=False,
        frontend="python",
        trusted_network=trusted,
        multi_model=found.multi_model,
    )
    click.echo(f"serving {found.folder}")
    in_foreground(options, state, empty=_where_models_come_from(found))


def _where_models_come_from(found: Layout) -> str:
    if found.multi_model:
        return f"no model is served yet: SageMaker loads what lies below {found.multi_model}"
    return f"no model is served: {found.folder} holds none"


def _tell(found: Layout, *, trusted: bool, model_name: str | None) -> None:
    """Say what the environment has in vain.

    Raises:
        InputError: models could be loaded by whoever reaches the server.
    """
    from archive_tool.errors import InputError
    from serving.cli.servers import warn
    from serving.image import layout as layouts

    told = f"{layouts.TRUSTED_VARIABLE}=1"
    if found.multi_model and not trusted:
        raise InputError(
            f"{layouts.MULTI_MODEL_VARIABLE}=true, but the network is not said to be trusted, and SageMaker has no key",
            hint=f"take an image of torchmar image --for sagemaker, which has {told}",
        )
    if model_name and not any("=" in model for model in found.models):
        warn(f"--model-name {model_name} is not used: the models of {found.folder} have names of their own")
    if found.platform and not trusted:
        warn(f"requests need a key, which {found.platform} does not send; where its network is guarded, set {told}")


def _empty_store(folder: Path) -> Path:
    """Return a folder for what is loaded later, without that of a run before."""
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    return folder


def _configured(found: Layout, port: int, folder: Path) -> Path:
    """Write the layout's configuration with a container's addresses in place of its own."""
    from serving.control.configuration.config import write_properties
    from serving.image.layout import configuration

    told = configuration(found.config, os.environ)
    address = f"http://{_HOST}:{port}"
    own = {
        "inference_address": address,
        "metrics_address": address,
        "management_address": f"unix:{folder / 'management.sock'}",
        "torchmar_grpc": "false",
    }
    path = folder / "container.properties"
    write_properties(path, {**told, **own})
    return path


def _check() -> None:
    from serving.cli.options import running
    from serving.client.transport import Address, Transport
    from serving.control.state import not_running
    from serving.errors import ServingError

    record = running("default")
    if record is None:
        raise not_running("default")
    with Transport(Address(record.inference), timeout_s=4.0) as transport:
        reply = transport.request("GET", "/readyz")
    if reply.status != 200:
        raise ServingError("the server is not ready: a model has no worker yet", where=record.log_folder)
    click.echo("ready")
