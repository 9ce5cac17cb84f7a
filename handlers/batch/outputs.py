"""The output of a model, split into one part a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def split_batch(output: Any) -> list[Any]:
    """Split along the first dimension: a tensor, or every tensor of a dict or tuple; a list stays as it is.

    A dict becomes a dict for each request, a tuple a tuple (a named one, its own class).

    Raises:
        TypeError: the output is something else.
        ValueError: the tensors disagree about the size of the batch.
    """
    if isinstance(output, torch.Tensor):
        return list(output)
    if isinstance(output, list):
        return output
    if isinstance(output, dict):
        return [dict(zip(output, parts, strict=True)) for parts in zip(*map(_rows, output.values()), strict=True)]
    if isinstance(output, tuple):
        make = getattr(type(output), "_make", tuple)
        return [make(parts) for parts in zip(*map(_rows, output), strict=True)]
    raise TypeError(f"the model gives {type(output).__name__}, which is not split by itself: override split")


def _rows(value: Any) -> Any:
    if isinstance(value, torch.Tensor | list | tuple):
        return value
    raise TypeError(f"the model's output holds {type(value).__name__}, which is not split by itself: override split")


def run_by_shape(inputs: Sequence[torch.Tensor], run: Callable[[torch.Tensor], Sequence[Any]]) -> list[Any]:
    """Run a model on the inputs of one shape at a time, stacked to `[batch, ...]`; return the parts in their order.

    `run` returns as many parts as it gets inputs.
    """
    shapes: dict[torch.Size, list[int]] = {}
    for index, one in enumerate(inputs):
        shapes.setdefault(one.shape, []).append(index)
    found: dict[int, Any] = {}
    for group in shapes.values():
        found |= zip(group, run(torch.stack([inputs[index] for index in group])), strict=True)
    return [found[index] for index in range(len(inputs))]
