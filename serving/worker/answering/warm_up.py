"""Warm-up: the archive's samples run before the worker reports that it is ready, so no client pays for the first run.

The samples are those that `torchmar build --sample` has stored. Their answers are not checked, `torchmar check` does
that; one that fails is logged, and the model is served all the same.

A model that torch.compile has compiled is compiled again for batches of another size: torch takes a size that it has
seen to change for any size from 2, and 1 for itself, unless it was configured for fixed sizes. So batches of two and
of the largest size are run as well, and if the latter was compiled anew, the sizes between them, too.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from serving.protocol import Parameter, Request
from serving.worker.answering.replies import Answer, Failure
from serving.worker.loading import compilations
from serving.worker.loading.failures import place, summary
from serving.worker.loading.loader import Model

logger = logging.getLogger(__name__)

#: "0" switches it off, for all models of a server.
VARIABLE = "TORCHMAR_WARM_UP"
# Of the frontend's time for a start, to be over well before it ends.
_SHARE = 0.8
# For how many sizes torch compiles one function (`recompile_limit`); after that it is run uncompiled.
_VARIANTS = 8
# Bytes of a sample; the frontend takes requests of 6.5 MB unless it is configured otherwise.
_LIMIT = 64 << 20

Rehearse: TypeAlias = Callable[[Sequence[Request]], Sequence[Answer]]


def run(model: Model, rehearse: Rehearse, model_path: str) -> None:
    """Run every sample of the archive once, and batches of them if the model is compiled.

    Do nothing where a request is one of a sequence, and in one of several processes that have to work together.

    Args:
        rehearse: lets the handler answer a batch of requests; raises what the handler raises.
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
    good = [request for _, request in samples if isinstance(request, Request)]
    sizes = _run_batches(model, rehearse, good) if good and not failed else []
    if samples and not failed:
        logger.info(
            "Warmed up with %d samples in %.2f s%s",
            len(samples),
            time.monotonic() - begin,
            f", in batches of 1, {', '.join(map(str, sizes))}" if sizes else "",
        )


def _run_batches(model: Model, rehearse: Rehearse, samples: Sequence[Request]) -> list[int]:
    """Run batches of the sizes that are compiled for; return those that were run."""
    most = _largest_batch(model)
    if most < 2 or model.one_by_one or compilations.count() == model.compiled_before:
        return []
    deadline = model.since + _SHARE * model.backend.startup_timeout_s
    done: list[int] = []
    todo = [2, most] if most > 2 else [2]
    longest = 0.0
    while todo:
        size = todo.pop(0)
        begin, before = time.monotonic(), compilations.count()
        if begin + longest > deadline:
            logger.warning(
                "Warm-up: batches of %s of %s are compiled when they come: there is no time left before startupTimeout "
                "(%g s); set a longer one in model-config.yaml",
                ", ".join(map(str, [size, *todo])),
                model.name,
                model.backend.startup_timeout_s,
            )
            break
        for sample in samples:
            with contextlib.suppress(Exception, SystemExit):  # alone it succeeded; what is wrong here a client will see
                rehearse([sample] * size)
        longest = max(longest, time.monotonic() - begin)
        done.append(size)
        if size == most and compilations.count() > before:
            todo = _between(most)
    return sorted(done)


def _between(most: int) -> list[int]:
    """Return the sizes from 3 to less than the largest, if torch compiles for so many; else the powers of two."""
    sizes = list(range(3, most))
    if most > _VARIANTS:
        sizes = [size for size in sizes if not size & (size - 1)]
    return sizes[: _VARIANTS - 3]


def _largest_batch(model: Model) -> int:
    size = model.context.system_properties.get("batch_size")
    return size if isinstance(size, int) else 1


def _try(rehearse: Rehearse, request: Request | str, folder: Path) -> str:
    """Run a batch; return what went wrong, empty if nothing did."""
    if isinstance(request, str):
        return request
    try:
        (answer,) = rehearse([request])
    except (Exception, SystemExit) as error:
        where = place(error, folder)
        return summary(error) + (f" in {where}" if where else "")
    if isinstance(answer, Failure):
        return answer.message
    if answer.status >= 400:
        return f"status {answer.status}: {bytes(answer.body[:200]).decode('utf-8', 'replace')}"
    return ""


def _requests(manifest: Any, folder: Path) -> Iterator[tuple[str, Request | str]]:
    """Yield the samples that the manifest names, each with its request, or with the reason why there is none.

    The archive may be untrusted: a name that leads out of its folder is not followed.
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
            state = path.stat()
            if not stat.S_ISREG(state.st_mode):  # a pipe, in a folder that is served as it is, would be waited for
                raise ValueError("it is no regular file")
            if state.st_size > _LIMIT:
                raise ValueError(f"it has more than {_LIMIT} bytes")
            body = path.read_bytes()
        except (OSError, ValueError) as error:
            yield name, f"it cannot be read: {getattr(error, 'strerror', None) or error}"
            continue
        yield name, request_of(f"warm-up-{index}", body, kind if isinstance(kind, str) else "")


def request_of(request_id: str, body: bytes, content_type: str) -> Request:
    """Make a request as the frontend makes it of one over HTTP to ``/predictions/<model>``."""
    headers = {"content-type": content_type, "explain": "False", "url_path": ""}
    return Request(request_id, headers, (Parameter("body", bytearray(body), content_type),))
