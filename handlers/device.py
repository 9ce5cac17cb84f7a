"""The device of the model, from the GPU index that the worker was given."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import torch

from handlers.errors import LoadError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

logger = logging.getLogger(__name__)


def forked_numbers(device: torch.device | None, *, enabled: bool = True) -> AbstractContextManager[None]:
    """Leave the random numbers that others draw, on the CPU and on this device, as they were.

    Without the device torch would look at all GPUs of the machine.
    """
    return torch.random.fork_rng([device] if device is not None and device.type == "cuda" else [], enabled=enabled)


def pick_device(gpu_id: Any) -> torch.device:
    """Choose the device for a worker: its GPU if it was given one and torch can reach it, else the CPU.

    `gpu_id` is the index from the context's `system_properties`; None means that no GPU was assigned.
    """
    if gpu_id is None:
        return torch.device("cpu")
    index = int(gpu_id)
    if torch.cuda.is_available():
        _require_index(index, torch.cuda.device_count())
        return torch.device("cuda", index)
    # The frontend sets this variable from its own `ipex_gpu_enable`.
    if os.environ.get("TS_IPEX_GPU_ENABLE", "false") == "true" and torch.xpu.is_available():
        _require_index(index, torch.xpu.device_count())
        return torch.device("xpu", index)
    if torch.backends.mps.is_available():
        return torch.device("mps")
    logger.warning("The worker was assigned GPU %s, but torch %s finds none: using the CPU", index, torch.__version__)
    return torch.device("cpu")


def _require_index(index: int, count: int) -> None:
    # Without this check the text of torch's error makes a worker report out of memory.
    if not 0 <= index < count:
        raise LoadError(
            f"the worker was assigned GPU {index}, but {count} are visible (counted from 0)",
            hint="check number_of_gpu and deviceIds in the server's configuration",
        )


def to_device(value: Any, device: torch.device | None) -> Any:
    """Move a model's input to the device: a tensor, or anything else with a method `to`.

    A tensor goes to a CUDA device from pinned memory, so that this thread does not wait for the copy.
    """
    if device is None or device.type != "cuda" or not _is_on_cpu(value):
        return value.to(device)
    return value.pin_memory().to(device, non_blocking=True)


def stack_on(items: Sequence[torch.Tensor], device: torch.device | None) -> torch.Tensor:
    """Stack tensors of one shape and dtype to `[batch, ...]` on the device, by pinned memory as `to_device` does."""
    first = items[0] if items else None
    alike = first is not None and all(_is_on_cpu(item) and item.dtype == first.dtype for item in items)
    if device is None or device.type != "cuda" or first is None or not alike:
        return torch.stack(list(items)).to(device)
    pinned = torch.empty((len(items), *first.shape), dtype=first.dtype, pin_memory=True)
    return torch.stack(list(items), out=pinned).to(device, non_blocking=True)


def _is_on_cpu(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.device.type == "cpu"


def synchronize(device: torch.device | None) -> None:
    """Wait until the device has finished all queued work, so that a clock read now is meaningful."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device is not None and device.type == "xpu":
        torch.xpu.synchronize(device)
