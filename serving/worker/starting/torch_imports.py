"""Settings of a process that runs a model, made before anything imports torch."""

from __future__ import annotations

from serving.worker.process import cores
from serving.worker.starting import lazy_dynamo


def prepare() -> None:
    """Set how idle threads wait, and let torchvision be imported without torch's compiler."""
    cores.calm_openmp()
    lazy_dynamo.install()
