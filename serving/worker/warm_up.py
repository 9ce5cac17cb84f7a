"""Runs the samples of an archive before its worker reports that it is ready, so that no client pays for the first run.

The samples are those that `torchmar build --sample` has stored. What they give is not looked at, `torchmar check` does
that; one that fails is told in the log, and the model is served all the same.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from serving.protocol import Parameter, Request
from serving.worker.failures import place, summary
from serving.worker.loader import Model
from serving.worker.service import Answer, Failure

logger = logging.getLogger(__name__)

#: "0" switches it off, for all models of a server.
VARIABLE = "TORCHMAR_WARM_UP"
# Bytes of a sample; the frontend takes requests of 6.5 MB unless it is told otherwise.
_LIMIT = 64 << 20


def run(model: Model, rehearse: Callable[[Request], Answer], model_path: str) -> None:
    """Runs every sample of the archive once.

    Not where a request is one of a sequence, and not in one of several processes that have to work together.

    Args:
        rehearse: lets the handler answer a request; raises what the handler raises.
    """
    backend = model.backend
    if not backend.warm_up or backend.stateful or os.environ.get(VARIABLE) == "0" or "LOCAL_RANK" in os.environ:
        return
    folder = Path(model_path)
    begin = time.monotonic()
    failed: list[str] = []
    samples = list(_requests(model.context.manifest, folder))
    for name, request in samples:
        if problem := _try(rehearse, request, folder):
            failed.append(f"{name}: {problem}")
    if failed:
        logger.warning(
            "Warm-up: %d of %d samples of %s failed; the model is served all the same. The first: %s",
            len(failed),
            len(samples),
            model.name,
            failed[0],
        )
    elif samples:
        logger.info("Warmed up with %d samples in %.2f s", len(samples), time.monotonic() - begin)


def _try(rehearse: Callable[[Request], Answer], request: Request | str, folder: Path) -> str:
    """What went wrong; empty if nothing did."""
    if isinstance(request, str):
        return request
    try:
        answer = rehearse(request)
    except (Exception, SystemExit) as error:
        where = place(error, folder)
        return summary(error) + (f" in {where}" if where else "")
    if isinstance(answer, Failure):
        return answer.message
    if answer.status >= 400:
        return f"status {answer.status}: {bytes(answer.body[:200]).decode('utf-8', 'replace')}"
    return ""


def _requests(manifest: Any, folder: Path) -> Iterator[tuple[str, Request | str]]:
    """The samples that the manifest names, each with its request, or with the reason why there is none.

    The archive may be anybody's: a name that leads out of its folder is not followed.
    """
    record = manifest.get("torchmar") if isinstance(manifest, Mapping) else None
    samples = record.get("samples") if isinstance(record, Mapping) else None
    if not isinstance(samples, list):
        return
    root = folder.resolve()
    for index, sample in enumerate(samples):
        name = sample.get("input") if isinstance(sample, Mapping) else None
        if not isinstance(name, str):
            yield f"sample {index}", "the manifest names no file for it"
            continue
        kind = sample.get("contentType")
        try:
            path = (root / name).resolve()
            if not path.is_relative_to(root):
                raise ValueError("it is not in the archive")
            if path.stat().st_size > _LIMIT:
                raise ValueError(f"it has more than {_LIMIT} bytes")
            body = path.read_bytes()
        except (OSError, ValueError) as error:
            yield name, f"it cannot be read: {getattr(error, 'strerror', None) or error}"
            continue
        yield name, request_of(f"warm-up-{index}", body, kind if isinstance(kind, str) else "")


def request_of(request_id: str, body: bytes, content_type: str) -> Request:
    """A request as the frontend makes it of one over HTTP to ``/predictions/<model>``."""
    headers = {"content-type": content_type, "explain": "False", "url_path": ""}
    return Request(request_id, headers, (Parameter("body", bytearray(body), content_type),))
