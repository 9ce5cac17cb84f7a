"""The metrics of a live model on a test set."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import torch

from archive_tool.errors import BuildError
from archive_tool.publishing import live

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import nn

    #: Takes the model's first output and the targets, for all rows; returns a number.
    Metric = Callable[[torch.Tensor, torch.Tensor], Any]

_ROWS_AT_ONCE: Final = 64


def evaluate(
    model: nn.Module, x_test: object, y_test: Any, *, has_rows: bool, metrics: Mapping[str, Metric] | None = None
) -> dict[str, float]:
    """Run the model on a test set and compare its first output with the targets.

    Integer targets are classes: `accuracy` is the fraction of rows for which the largest score (or, with one score for
    each row, the side of the threshold: 0.5 for probabilities, else 0) is the target's. Other targets are numbers:
    `mean_absolute_error` and `mean_squared_error`.

    Args:
        model: the live model.
        x_test: inputs, in the forms of an example.
        y_test: one target a row: classes `[rows]`, or numbers of the output's shape.
        has_rows: whether the rows may be run in parts.
        metrics: functions by name, to compute in place of these.

    Raises:
        BuildError: the test set does not fit the model, inputs and targets do not fit each other, or a metric is not a
            finite number.
    """
    inputs = live.read_inputs(model, x_test)
    count = live.rows_of(inputs)
    targets = _targets(y_test)
    if not targets.dim() or targets.shape[0] != count:
        raise BuildError(
            f"x_test has {count} rows, and y_test {targets.shape[0] if targets.dim() else 'none'}",
            hint="give one target for each row",
        )
    if not count:
        raise BuildError("the test set has no rows")
    step = _ROWS_AT_ONCE if has_rows else count
    parts = []
    for start in range(0, count, step):
        outputs = live.run(model, {name: one[start : start + step] for name, one in inputs.items()})
        parts.append(next(iter(outputs.values())))
    found = torch.cat(parts) if len(parts) > 1 else parts[0]
    if metrics:
        return {name: _finite(name, function(found, targets)) for name, function in metrics.items()}
    return _usual(found, targets)


def _targets(value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        return value.detach().cpu()
    try:
        import numpy

        return torch.from_numpy(numpy.array(value, order="C"))
    except (TypeError, ValueError, RuntimeError) as error:
        raise BuildError(f"y_test is no array of numbers: {error}") from error


def _usual(found: torch.Tensor, targets: torch.Tensor) -> dict[str, float]:
    if targets.dim() == 2 and targets.shape[1] == 1:
        targets = targets[:, 0]
    if not targets.is_floating_point() and targets.dim() == 1:
        return {"accuracy": _accuracy(found, targets)}
    if found.dim() == targets.dim() + 1 and found.shape[-1] == 1:
        found = found[..., 0]
    if found.shape != targets.shape:
        raise BuildError(
            f"the model gives {list(found.shape)} for the test set, and the targets are {list(targets.shape)}",
            hint="give classes as whole numbers, [rows], or numbers of the output's shape; or give metrics={...}",
        )
    gap = found.double() - targets.double()
    return {
        "mean_absolute_error": _finite("mean_absolute_error", gap.abs().mean()),
        "mean_squared_error": _finite("mean_squared_error", gap.square().mean()),
    }


def _accuracy(found: torch.Tensor, targets: torch.Tensor) -> float:
    if found.dim() == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.dim() == 2:
        classes = found.argmax(dim=1)
    elif found.dim() == 1 and found.is_floating_point():
        probabilities = bool(((found >= 0) & (found <= 1)).all())
        classes = (found > (0.5 if probabilities else 0.0)).long()
    elif found.dim() == 1:
        classes = found  # the model returns the class itself
    else:
        raise BuildError(
            f"the model gives {list(found.shape)} for the test set, and the targets are classes",
            hint="an output of [rows, classes] has an accuracy; for others give metrics={name: function}",
        )
    return float((classes == targets).double().mean())


def _finite(name: str, value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise BuildError(f"the metric {name} is {number}", hint="look at the model's outputs for the test set")
    return number
