"""What a process that runs a model needs to have set before anything imports torch."""

from __future__ import annotations

from serving.worker import lazy_dynamo
from serving.worker.process import cores


def prepare() -> None:
    """Sets how idle threads wait, and lets torchvision be imported without torch's compiler."""
    cores.calm_openmp()
    lazy_dynamo.install()
