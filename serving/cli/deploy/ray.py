"""Command: deploy ray."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from serving.cli.options import (
    PortType,
    complete_archives,
    enable_model_api_option,
    json_option,
    model_store_option,
    name_option,
    quiet_option,
    timeout_option,
)

if TYPE_CHECKING:
    from serving.control import StartOptions


@click.command()
@click.argument("archives", nargs=-1, required=True, metavar="[NAME=]ARCHIVE...", shell_complete=complete_archives)
@click.option(
    "--address",
    metavar="HOST:PORT",
    help="The Ray cluster; 'auto' is that of this machine. By default one is started here.",
)
@click.option("--host", metavar="HOST", help="Where each node listens; by default 127.0.0.1, with --address 0.0.0.0.")
@click.option(
    "--port", type=PortType(), default=8080, show_default=True, help="The port of all APIs; 'auto' for a free one."
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    metavar="N",
    help="Replicas of each model; by default what it says, else 1.",
)
@click.option(
    "--cpus",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="Processors of a replica, for Ray's count.",
)
@click.option(
    "--gpus", type=click.FloatRange(min=0), help="GPUs of a replica; by default what deviceType says, else none."
)
@click.option(
    "--proxies", type=click.Choice(["every", "head"]), default="every", show_default=True, help="Which nodes listen."
)
@click.option(
    "--resend", is_flag=True, help="Send a request again whose replica died before it answered, whatever it does."
)
@click.option(
    "--ts-config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Configuration; by default ./config.properties if there is one.",
)
@model_store_option
@click.option(
    "--require-signature",
    type=click.Path(path_type=Path),
    metavar="PUBLIC",
    help="Serve only archives signed with the private key of this public one; every node checks it.",
)
@enable_model_api_option
@click.option("--config-only", is_flag=True, help="Print a config for 'serve deploy' and KubeRay, and deploy nothing.")
@click.option(
    "--archives-at",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="With --config-only: where the cluster has the archives; by default where they are here.",
)
@quiet_option
@json_option
@timeout_option(600.0)
@name_option
def ray(
    archives: tuple[str, ...],
    address: str | None,
    host: str | None,
    port: int | Literal["auto"],
    workers: int | None,
    cpus: float,
    gpus: float | None,
    proxies: str,
    resend: bool,
    ts_config: Path | None,
    model_store: Path | None,
    require_signature: Path | None,
    enable_model_api: bool,
    config_only: bool,
    archives_at: Path | None,
    quiet: bool,
    as_json: bool,
    timeout: float,
    server: str,
) -> None:
    """Serve archives on Ray Serve.

    Each version of a model is an application of its own, which HAProxy asks on every node: a prediction takes one hop.
    TorchServe's calls stay what they are, all on one port. Without --address a Ray cluster of this machine is started,
    and torchmar stop ends it; with it, the models are deployed to that cluster and stay there until torchmar stop.

    \b
    Examples:
      torchmar deploy ray model_store/mnist.mar
      torchmar deploy ray model_store/mnist.mar --address auto --workers 4 --name mnist
      torchmar deploy ray model_store/mnist.mar --config-only
    """
    from serving.cli.servers import begin_and_report
    from serving.control import StartOptions

    listen = host or ("0.0.0.0" if address or config_only else "127.0.0.1")  # noqa: S104 (keys are asked for there)
    settings = {
        "inference_address": f"http://{listen}:{port if port != 'auto' else 8080}",
        "torchmar_ray_cpus": f"{cpus:g}",
        "torchmar_ray_proxies": proxies,
        "torchmar_ray_resend": str(resend).lower(),
        "torchmar_ray_server": server,
        **({"torchmar_ray_address": address} if address else {}),
        **({"torchmar_ray_gpus": f"{gpus:g}"} if gpus is not None else {}),
    }
    options = StartOptions(
        server,
        archives,
        model_store,
        ts_config,
        workers=workers,
        port=port if port == "auto" else None,
        timeout_s=timeout,
        require_signature=require_signature,
        enable_model_api=enable_model_api,
        snapshots=False,
        frontend="ray",
        settings=settings,
    )
    if config_only:
        _print_config(options, archives_at)
        return
    begin_and_report(options, quiet=quiet, as_json=as_json)


def _print_config(options: StartOptions, at: Path | None) -> None:
    from serving.cli.servers import warn
    from serving.control.configuration.config import ModelSpec
    from serving.control.models.store import select
    from serving.control.preparing import configured
    from serving.frontend.ray.config import config_of, text_of
    from serving.frontend.settings import Place, home_of, of

    properties = configured(options, warn, given_keys=False)
    selection = select(options.models, model_store=options.model_store, properties=properties, config_folder=Path.cwd())
    store = selection.store
    settings = of(properties, Place(store, home_of(None), store, store, store))
    models = selection.models or [ModelSpec("", path.name) for path in selection.archives()]
    click.echo(text_of(config_of(settings, models, at, options.workers, options.require_signature), settings), nl=False)
