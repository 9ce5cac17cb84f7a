"""Where the time of a batch goes: a trace by the torch profiler, or metrics of the three steps."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from handlers.device import synchronize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from handlers.context import Context

logger = logging.getLogger(__name__)


def trace_requested() -> bool:
    """Return whether each batch is to be traced: the environment variable ENABLE_TORCH_PROFILER is set."""
    return bool(os.environ.get("ENABLE_TORCH_PROFILER"))


def complete_profiler_args(given: dict[str, Any], manifest: Mapping[str, Any] | None) -> None:
    """Fill in what the handler's `profiler_args` leave open: activities, and a folder for the traces.

    The folder is `pytorch_profiler/<model name>` in the folder for temporary files.
    """
    if not given:
        given["activities"] = [torch.profiler.ProfilerActivity.CPU]
        if torch.cuda.is_available():
            given["activities"].append(torch.profiler.ProfilerActivity.CUDA)
        given["record_shapes"] = True
    if "on_trace_ready" not in given:
        name = (manifest or {}).get("model", {}).get("modelName", "")
        folder = Path(tempfile.gettempdir(), "pytorch_profiler", name)
        given["on_trace_ready"] = torch.profiler.tensorboard_trace_handler(str(folder))
        logger.info("Traces of the torch profiler go to %s", folder)


@contextmanager
def timed(step: str, device: torch.device | None, context: Context | None) -> Iterator[None]:
    """Record the milliseconds of one step as the metric `ts_handler_<step>`."""
    synchronize(device)
    begin = time.perf_counter()
    yield
    synchronize(device)
    metrics = getattr(context, "metrics", None)
    if metrics is not None:
        metrics.add_time(f"ts_handler_{step}", (time.perf_counter() - begin) * 1000)


def is_timed(hook: Callable[..., Any]) -> bool:
    """Return whether a hook carries TorchServe's own decorator, which records the same metric."""
    return getattr(hook, "__module__", None) == "ts.handler_utils.timer"
