"""The served models as they are written down, in TorchServe's format (SnapshotManager.java, Model.java).

`serving.control.models.snapshots` finds the newest one, checks it and restores it, whichever frontend wrote it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import tempfile
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

from serving.control.configuration.config import write_properties
from serving.control.models.snapshots import KEY
from serving.frontend.errors import ConflictError
from serving.frontend.local.models.archives import file_name
from serving.frontend.local.models.model import Model
from serving.frontend.settings import Settings

logger = logging.getLogger(__name__)

Kind = Literal["startup", "snapshot", "shutdown"]
Served = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""What is served: the settings of each version, by its model's name and its own."""

#: What is written down of a version's share, by this name.
TRAFFIC: Final = "traffic"
#: Files of one server: the newest.
KEPT: Final = 100
_FOLDER: Final = "config"


def settings_of(model: Model, *, default: bool, traffic: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Tell what is written down of a version.

    Args:
        traffic: its share of the requests that name no version, as it is written down.
    """
    found: dict[str, Any] = {
        "defaultVersion": default,
        "marName": file_name(model.unpacked.url),
        "minWorkers": model.least,
        "maxWorkers": model.most,
        "batchSize": model.batch_size,
        "maxBatchDelay": model.max_batch_delay_ms,
        "responseTimeout": model.response_timeout_s,
        "startupTimeout": model.startup_timeout_s,
        "runtimeType": model.runtime,
    }
    if model.values.get("parallelType") and model.values.get("parallelLevel"):
        found["parallelLevel"] = model.values["parallelLevel"]
    if model.handler and model.handler != model.handler_of_archive:
        found["handler"] = model.handler  # ours: TorchServe forgets it
    if traffic is not None:
        found[TRAFFIC] = traffic  # the same
    return found


def as_written(model: Model, version: str, settings: Mapping[str, Any]) -> Model:
    """Make a version what it was when it was written down: what it was told then wins over its archive.

    Args:
        model: of the archive as it is now.
        version: that was served.
        settings: of it, as `Snapshot.parse` has checked them.

    Raises:
        ConflictError: the archive holds another version now.
    """
    if model.version != version:
        raise ConflictError(f"{model.unpacked.url} holds version {model.version} now")
    least = max(0, settings["minWorkers"])
    delay = settings["maxBatchDelay"]  # below 0 where TorchServe was told none
    return replace(
        model,
        least=least,
        most=max(least, settings["maxWorkers"]),
        batch_size=max(1, settings["batchSize"]),
        max_batch_delay_ms=delay if delay >= 0 else model.max_batch_delay_ms,
        response_timeout_s=_seconds(settings.get("responseTimeout"), model.response_timeout_s),
        startup_timeout_s=_seconds(settings.get("startupTimeout"), model.startup_timeout_s),
    )


def _seconds(told: int | None, default: int) -> int:
    return told if told is not None and told > 0 else default


class Snapshots:
    """Writes down what is served: at the start, which comes first, at each change and at the end.

    Args:
        settings: of the server; they are written down, too.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._served: Served = {}
        self._stored: Served | None = None
        self._names: deque[str] = deque()
        self._lock = asyncio.Lock()
        self._writing: set[asyncio.Task[None]] = set()
        self._begun = False
        self._stamp = 0

    async def write(self, kind: Kind, served: Served) -> None:
        """Write down what is served, and return when this, or something newer, lies on the disk.

        What cannot be written is logged. Who is cancelled meanwhile leaves nothing undone.
        """
        self._begun = self._begun or kind == "startup"
        if not self._begun:
            return  # a server that ends while it begins has not taken all of its models
        self._served = served
        task = asyncio.get_running_loop().create_task(self._write(kind))
        self._writing.add(task)
        task.add_done_callback(self._writing.discard)
        await asyncio.shield(task)

    async def _write(self, kind: Kind) -> None:
        async with self._lock:
            served = self._served  # later changes included, which then find nothing to do
            if kind == "snapshot" and served == self._stored:
                return
            # They are read by their order: it is kept even if the clock is set back.
            now = time.time()
            stamp = int(time.strftime("%Y%m%d%H%M%S", time.localtime(now))) * 1000 + int(now * 1000) % 1000
            self._stamp = max(stamp, self._stamp + 1)
            name = f"{self._stamp}-{kind}.cfg"
            document = {
                "name": name,
                "modelCount": sum(map(len, served.values())),
                "created": int(now * 1000),
                "models": served,
            }
            try:
                await asyncio.to_thread(self._store, name, json.dumps(document, indent=2))
                self._stored = served
            except (OSError, ValueError) as error:
                logger.error("Error while saving snapshot to file %s: %s", name, error)

    def _store(self, name: str, text: str) -> None:
        place = self._settings.place
        folder = place.logs / _FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        # TorchServe ends at a name in that folder that has no time. Its owner's alone: passwords may be in it.
        number, temporary = tempfile.mkstemp(prefix=".snapshot-", dir=place.logs)
        os.close(number)
        try:
            # The store of the command line may be another than the configuration's.
            properties = {**self._settings.properties, "model_store": str(place.model_store), KEY: text}
            write_properties(Path(temporary), properties)
            Path(temporary).replace(folder / name)
        except BaseException:
            Path(temporary).unlink()
            raise
        self._names.append(name)
        if len(self._names) > KEPT:
            (folder / self._names.popleft()).unlink(missing_ok=True)
