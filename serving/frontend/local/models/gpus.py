"""Which GPU a worker gets: round robin, of a model's deviceIds or of all that there are (WorkLoadManager.java)."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from typing import Final

from serving.frontend.errors import NoGpusError
from serving.frontend.local.models.model import Model
from serving.frontend.settings import Settings

logger = logging.getLogger(__name__)

_ASK: Final = ("nvidia-smi", "--query-gpu=index", "--format=csv,noheader")
_ASK_S: Final = 20.0


class Gpus:
    """Hands out GPUs.

    Args:
        settings: ``number_of_gpu`` bounds how many are used.
    """

    def __init__(self, settings: Settings) -> None:
        found = count()
        self.count = found if settings.number_of_gpu is None else min(found, settings.number_of_gpu)
        self._next: dict[str, int] = {}

    def next(self, model: Model) -> int | None:
        """Return the (first) GPU of the next worker of a model; None for the processor."""
        if not self._has(model):
            return None
        ids = self._ids(model)
        place = self._next.get(model.label, 0)
        self._next[model.label] = place + model.levels
        return ids[place % len(ids)]

    def fit(self, model: Model, least: int, most: int) -> tuple[int, int]:
        """Cut down numbers of workers, of each of which every process has a GPU (ModelManager.java).

        Raises:
            NoGpusError: there are not enough of them for one.
        """
        if not self._has(model) or not (model.values.get("parallelType") and model.values.get("parallelLevel")):
            return least, most
        room = len(self._ids(model)) // model.levels
        if room == 0:
            raise NoGpusError(f"No enough gpu devices for model:{model.name} parallelLevel:{model.levels}")
        if most > room:
            logger.warning(
                "%s gets at most %d workers of the %d that it wants: parallelLevel is %d, and it has %d GPUs",
                *(model.label, room, most, model.levels, len(self._ids(model))),
            )
        return min(least, room), min(most, room)

    def _has(self, model: Model) -> bool:
        return self.count > 0 and model.values.get("deviceType") != "cpu"

    def _ids(self, model: Model) -> list[int]:
        """Return the GPUs of a model that has some, in their order."""
        ids = [int(one) for one in model.values.get("deviceIds") or ()]
        # TorchServe begins with the first of deviceIds, and without them with the GPU after the first.
        return ids if ids and all(0 <= one < self.count for one in ids) else [*range(1, self.count), 0]


def count() -> int:
    """How many GPUs the workers of this server see.

    `CUDA_VISIBLE_DEVICES` says so without asking; else the driver's own command is asked.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([one for one in visible.split(",") if one.strip() not in ("", "-1")])
    if shutil.which(_ASK[0]) is None:
        return 0
    try:
        done = subprocess.run(_ASK, capture_output=True, text=True, timeout=_ASK_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return len(done.stdout.split()) if done.returncode == 0 else 0
