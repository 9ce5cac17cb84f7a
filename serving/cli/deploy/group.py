"""Command: deploy, and the commands below it."""

from __future__ import annotations

from typing import Final

import click

from archive_tool.cli.entry import Entry, LazyGroup

#: Section, then command: its module, and the first line of its help (a test compares the two).
COMMANDS: Final[dict[str, dict[str, Entry]]] = {
    "Clusters": {
        "ray": Entry("serving.cli.deploy.ray:ray", "Serve archives on Ray Serve."),
        "kubernetes": Entry(
            "serving.cli.deploy.kubernetes:kubernetes", "Print what Kubernetes needs to serve an image's archives."
        ),
        "kserve": Entry("serving.cli.deploy.kserve:kserve", "Print what KServe needs to serve archives of a storage."),
    },
}


@click.group(cls=LazyGroup, sections=COMMANDS)
def deploy() -> None:
    """Serve archives on a cluster.

    Every command explains itself: torchmar deploy COMMAND --help

    \b
    Examples:
      torchmar deploy kubernetes model_store/mnist.mar --image registry.example.com/mnist:1.0
    """
