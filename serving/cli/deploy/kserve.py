"""Command: deploy kserve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from serving.cli.deploy.options import deployed_of, documents_options, show, size_notes


@click.command()
@click.option(
    "--storage-uri", required=True, metavar="URI", help="Where KServe gets the archive; {name} in it is each model's."
)
@click.option(
    "--name", metavar="NAME", help="Name of the InferenceService of a single archive; by default the model's."
)
@click.option("--runtime", default="torchmar", show_default=True, metavar="NAME", help="Name of the ServingRuntime.")
@click.option(
    "--protocol",
    type=click.Choice(["v1", "v2"]),
    default="v1",
    show_default=True,
    help="What KServe takes it to speak.",
)
@click.option("--service-account", metavar="NAME", help="Account that may read the storage.")
@documents_options
def kserve(
    archives: tuple[Path, ...],
    storage_uri: str,
    name: str | None,
    runtime: str,
    protocol: str,
    service_account: str | None,
    cpu: str | None,
    memory: str | None,
    gpus: int | None,
    output: Path | None,
    force: bool,
    quiet: bool,
    **pods: Any,
) -> None:
    """Print what KServe needs to serve archives of a storage.

    A ServingRuntime of the formats mar, torchmar and pytorch, and an InferenceService for each archive, in YAML. The
    image is one of torchmar image --for kserve. The archives are only read: KServe gets them from --storage-uri.

    \b
    Examples:
      torchmar deploy kserve model_store/mnist.mar --image registry.example.com/torchmar-kserve:1.0 \\
          --storage-uri s3://models/mnist | kubectl apply -f -
      torchmar deploy kserve a.mar b.mar --image registry.example.com/torchmar-kserve:1.0 \\
          --storage-uri pvc://models/{name} --protocol v2
    """
    from serving.deploy.demands import demands_of, size_of
    from serving.deploy.kserve import Wanted, documents, names_of, storage_of
    from serving.deploy.names import checked_name, checked_reference

    if name is not None and len(archives) > 1:
        raise click.UsageError("--name is for a single archive: each gets an InferenceService of its own")
    deployed = deployed_of(pods)
    demands = demands_of(archives, deployed.workers)
    wanted = Wanted(
        checked_name(runtime),
        deployed,
        [size_of([one], cpu=cpu, memory=memory, gpus=gpus) for one in demands],
        storage_of(storage_uri, demands),
        protocol,  # type: ignore[arg-type]
        None if service_account is None else checked_reference("service account", service_account),
    )
    names = names_of(demands) if name is None else [checked_name(name)]
    notes = size_notes(memory, [f"{called} {size.memory}" for called, size in zip(names, wanted.sizes, strict=True)])
    show(documents(wanted, names, demands), output, notes, force=force, quiet=quiet)
