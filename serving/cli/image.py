"""Command: image."""

from __future__ import annotations

import shlex
from pathlib import Path

import click

from archive_tool.cli.output import printable
from archive_tool.errors import TorchmarError
from serving.cli.options import complete_archives


@click.command()
@click.argument("archives", nargs=-1, type=click.Path(path_type=Path), shell_complete=complete_archives)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default="image",
    show_default=True,
    metavar="DIR",
    help="Folder to write the Dockerfile and its context to.",
)
@click.option(
    "--for",
    "platform",
    type=click.Choice(["plain", "sagemaker", "kserve"]),
    default="plain",
    show_default=True,
    help="Where it is to run. In SageMaker's and KServe's images no request needs a key: their network is guarded.",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Which torch is installed; that for CUDA is several gigabytes larger.",
)
@click.option("--base", metavar="IMAGE", help="Image with Python and pip; by default python:VERSION-slim.")
@click.option(
    "--ts-config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="config.properties of the server; the addresses in it have no effect.",
)
@click.option("--tag", default="torchmar", show_default=True, metavar="NAME", help="Name of the image that is built.")
@click.option("--build", is_flag=True, help="Build it, with docker, podman or buildah: the first that is installed.")
@click.option("--builder", type=click.Choice(["docker", "podman", "buildah"]), help="Build it with this program.")
@click.option("-f", "--force", is_flag=True, help="Replace a context that was written before.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing on success.")
def image(
    archives: tuple[Path, ...],
    output: Path,
    platform: str,
    device: str,
    base: str | None,
    ts_config: Path | None,
    tag: str,
    build: bool,
    builder: str | None,
    force: bool,
    quiet: bool,
) -> None:
    """Write an image of archives for docker, podman or buildah.

    Writes a folder with a Dockerfile and all that it needs: the archives, their requirements, and this torchmar. The
    image runs torchmar serve, as a user of its own, on a root that may be read-only, and holds a bill of materials.
    Without archives it serves what is mounted.

    \b
    Examples:
      torchmar image model_store/mnist.mar
      torchmar image model_store/mnist.mar --output image --tag mnist:1.0 --build
      torchmar image --for sagemaker --tag torchmar-sagemaker
      torchmar image --for kserve --device cuda --output image
    """
    from serving.image import building
    from serving.image.context import write_context
    from serving.image.dockerfile import check_image

    if not archives and platform == "plain":
        raise click.UsageError("name the archives; only images for SageMaker and KServe get theirs later")
    check_image(tag)
    write_context(
        archives,
        output,
        platform=platform,  # type: ignore[arg-type]
        device=device,  # type: ignore[arg-type]
        base=base,
        config=ts_config,
        force=force,
    )
    if not quiet:
        click.echo(f"{printable(str(output))}  {len(archives)} archive{'' if len(archives) == 1 else 's'}")
    if build or builder:
        building.build(output, tag, builder)
        if not quiet:
            click.echo(f"built {tag}")
    elif not quiet:
        try:
            line = shlex.join(building.command(output, tag))
        except TorchmarError:
            line = shlex.join(["docker", "build", "--tag", tag, str(output)])
        click.echo(f"build it: {printable(line)}")
