"""What the versions of one server share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from serving.frontend.local.models.model import Model
from serving.frontend.meters import Meters
from serving.frontend.settings import Settings


@dataclass(frozen=True)
class Surroundings:
    """What the versions of one server share.

    Attributes:
        numbers: gives the next number of a worker, of so many processes.
        gpus: gives the next GPU of a version; None for the processor.
        python: gives the interpreter of a model's workers.
        printed: takes a line of a worker that is no metric: worker, pipe, text.
        memory: resident bytes of a process, as of the last collection; 0 if it is not known.
        ended: told of a worker that is started no more.
    """

    settings: Settings
    meters: Meters
    numbers: Callable[[int], int]
    gpus: Callable[[Model], int | None]
    python: Callable[[Model], str]
    printed: Callable[[str, str, str], None]
    memory: Callable[[int], int]
    ended: Callable[[str], None]
