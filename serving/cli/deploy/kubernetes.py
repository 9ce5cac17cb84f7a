"""Command: deploy kubernetes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from serving.cli.deploy.options import deployed_of, documents_options, show, size_notes


@click.command()
@click.option("--name", metavar="NAME", help="Name of every object; by default the model's.")
@click.option("--secret", metavar="NAME", help="Secret with the key 'inference' of requests; by default NAME-key.")
@click.option("--no-monitor", is_flag=True, help="Print no ServiceMonitor: the cluster has no Prometheus operator.")
@documents_options
def kubernetes(
    archives: tuple[Path, ...],
    name: str | None,
    secret: str | None,
    no_monitor: bool,
    cpu: str | None,
    memory: str | None,
    gpus: int | None,
    output: Path | None,
    force: bool,
    quiet: bool,
    **pods: Any,
) -> None:
    """Print what Kubernetes needs to serve an image's archives.

    A Deployment, Service, PodDisruptionBudget, HorizontalPodAutoscaler and ServiceMonitor, in YAML. The archives are
    those that the image holds; how many cores and GPUs a pod gets is read in them. No key is printed: the pods take it
    from a secret.

    \b
    Examples:
      torchmar deploy kubernetes model_store/mnist.mar --image registry.example.com/mnist:1.0 | kubectl apply -f -
      torchmar deploy kubernetes a.mar b.mar --image registry.example.com/both:1.0 --name both --memory 8Gi --gpus 1
      torchmar deploy kubernetes model_store/mnist.mar --image registry.example.com/mnist:1.0 --output mnist.yaml
    """
    from serving.deploy.demands import demands_of, size_of
    from serving.deploy.kubernetes import KEY, Wanted, documents
    from serving.deploy.names import checked_name, checked_reference, name_of

    if name is None and len(archives) > 1:
        raise click.UsageError("of several archives, name what is deployed: --name")
    deployed = deployed_of(pods)
    demands = demands_of(archives, deployed.workers)
    chosen = name_of(demands[0].name) if name is None else checked_name(name)
    size = size_of(demands, cpu=cpu, memory=memory, gpus=gpus)
    held = f"{chosen}-key" if secret is None else checked_reference("secret", secret)
    place = f" -n {deployed.namespace}" if deployed.namespace else ""
    notes = [
        *size_notes(memory, [size.memory]),
        f"the key of requests is {KEY} of the secret {held}; unless there is one:",
        f"  openssl rand -hex 32 | kubectl create secret generic {held} --from-file={KEY}=/dev/stdin{place}",
    ]
    wanted = Wanted(chosen, deployed, size, held, monitor=not no_monitor)
    show(documents(wanted, demands), output, notes, force=force, quiet=quiet)
