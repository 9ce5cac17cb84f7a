"""What the commands that print documents share: options, and the output."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from archive_tool.cli.output import printable
from serving.cli.options import F, complete_archives

if TYPE_CHECKING:
    from serving.deploy.documents import Document
    from serving.deploy.pods import Deployed

_ABOUT_PODS = (
    click.option("--image", required=True, metavar="IMAGE", help="Image to run: one of torchmar image, in a registry."),
    click.option("--namespace", metavar="NAME", help="Namespace; by default that of whoever applies the documents."),
    click.option(
        "--replicas", type=click.IntRange(1), default=2, show_default=True, metavar="N", help="Pods at least."
    ),
    click.option("--max-replicas", type=click.IntRange(1), metavar="N", help="Pods at most; by default twice as many."),
    click.option("--workers", type=click.IntRange(1), metavar="N", help="Workers of each model, whatever it says."),
    click.option(
        "--timeout",
        type=click.IntRange(1, 86400),
        default=600,
        show_default=True,
        metavar="SECONDS",
        help="Seconds until every model of a pod must be ready.",
    ),
    click.option("--pull-secret", metavar="NAME", help="Secret of the image's registry."),
    click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="Label of every object; repeatable."),
)
_ABOUT_SIZES = (
    click.option("--cpu", metavar="CORES", help="Cores of a pod; by default as many as its workers can use."),
    click.option("--memory", metavar="SIZE", help="Memory of a pod, such as 4Gi; by default an estimate."),
    click.option("--gpus", type=click.IntRange(0), metavar="N", help="GPUs of a pod; by default what deviceType says."),
)
_ABOUT_OUTPUT = (
    click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Write to a file."),
    click.option("-f", "--force", is_flag=True, help="Replace the file that --output names."),
    click.option("-q", "--quiet", is_flag=True, help="Say nothing beside the documents."),
)
_ARCHIVES = click.argument(
    "archives", nargs=-1, required=True, type=click.Path(path_type=Path), shell_complete=complete_archives
)


def documents_options(command: F) -> F:
    """Add the options that such commands have in common."""
    for option in reversed((_ARCHIVES, *_ABOUT_PODS, *_ABOUT_SIZES, *_ABOUT_OUTPUT)):
        command = option(command)
    return command


def deployed_of(pods: dict[str, Any]) -> Deployed:
    """Understand the options about pods, by their names.

    Raises:
        InputError: one has a value that Kubernetes would refuse.
    """
    from archive_tool.errors import InputError
    from serving.deploy import names
    from serving.deploy.pods import Deployed
    from serving.image.dockerfile import check_image

    check_image(pods["image"])
    least, most = pods["replicas"], pods["max_replicas"] or 2 * pods["replicas"]
    if most < least:
        raise InputError(f"--max-replicas {most} is less than --replicas {least}")
    space, secret = pods["namespace"], pods["pull_secret"]
    return Deployed(
        pods["image"],
        None if space is None else names.checked_namespace(space),
        least,
        most,
        pods["workers"],
        pods["timeout"],
        None if secret is None else names.checked_reference("secret", secret),
        dict(map(names.label, pods["labels"])),
    )


def show(documents: Iterable[Document], output: Path | None, notes: Iterable[str], *, force: bool, quiet: bool) -> None:
    """Print documents, or write them to a file, and say beside them what else there is to do.

    Raises:
        TargetExistsError: the file is there.
        InputError: it cannot be written.
    """
    from serving.deploy.documents import as_yaml, write

    text = as_yaml(documents)
    if output is None:
        click.echo(text, nl=False)
    else:
        write(text, output, force=force)
    if not quiet:
        for note in notes:
            click.echo(printable(note), err=True)


def size_notes(memory: str | None, estimated: Iterable[str]) -> list[str]:
    """Say that an amount of memory is a guess, unless the user has named it."""
    return [] if memory else [f"memory is an estimate ({', '.join(estimated)}): --memory says what it is"]
