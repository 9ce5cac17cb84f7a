"""The difference of two outputs of a model, of any form: a tensor, or a nest of them."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SIXTEEN_BITS = (torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Difference:
    """The result of a comparison.

    `size` is the largest difference over all tensors, each relative to the largest expected number; of integers it is
    the fraction that differs. It is infinite where only one output has a NaN or an infinity, or they have different
    ones. `place` says where it is. `compared` counts tensors, and `left_out` names those in which there is nothing to
    compare.
    """

    size: float = 0.0
    place: str = ""
    compared: int = 0
    left_out: tuple[str, ...] = ()

    @property
    def is_finite(self) -> bool:
        """Whether the difference is more than a NaN or an infinity in one output only."""
        return math.isfinite(self.size)


def compare(expected: Any, found: Any) -> Difference:
    """Compare two outputs of one model for the same input.

    Tensors are compared number by number where their shapes are equal. A detector orders its boxes by their scores,
    which also decide how many there are: of a dict with `scores` only the scores are compared, as many as both have.
    Parts of the output that are not tensors are ignored.
    """
    size, place, compared = 0.0, "", 0
    left_out: list[str] = []
    others = dict(_tensors(found))
    for name, one in _tensors(expected):
        other = others.get(name)
        if other is not None and name.endswith("scores") and one.dim() == other.dim() == 1:
            one, other = one[: len(other)], other[: len(one)]
        if other is None or one.shape != other.shape or not one.numel():
            left_out.append(name)
            continue
        compared += 1
        distance = _distance(one, other)
        if distance > size:
            size, place = distance, name
    return Difference(size, place, compared, tuple(left_out))


def _distance(expected: torch.Tensor, found: torch.Tensor) -> float:
    with torch.inference_mode():
        if not (expected.is_floating_point() or expected.is_complex()):
            return float((expected != found.to(expected)).double().mean())
        kind = torch.complex128 if expected.is_complex() else torch.float64
        one, other = (tensor.detach().cpu().to(kind) for tensor in (expected, found))
        regular = torch.isfinite(one) & torch.isfinite(other)
        same = regular | (one == other) | (torch.isnan(one) & torch.isnan(other))
        if not bool(same.all()):
            return math.inf
        if not bool(regular.any()):
            return 0.0
        largest = float(one[regular].abs().max())
        return float((one - other)[regular].abs().max()) / (largest or 1.0)


def _tensors(value: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the dense tensors of an output with a name for each, the path from the outermost part in."""
    ranked = [("", value)]
    while ranked:
        name, item = ranked.pop()
        if isinstance(item, torch.Tensor):
            if item.layout is torch.strided and not item.is_quantized:
                yield name or "output", item
            continue
        parts = _parts(item)
        if _is_detection(parts):
            parts = {"scores": parts["scores"]}
        ranked += [(f"{name}.{key}" if name else str(key), part) for key, part in reversed(parts.items())]


def _is_detection(parts: Mapping[str, Any]) -> bool:
    return "scores" in parts and "boxes" in parts


def _parts(value: Any) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return {str(key): part for key, part in value.items()}
    if isinstance(value, list | tuple):
        names = getattr(value, "_fields", None) or range(len(value))
        return {str(name): part for name, part in zip(names, value, strict=True)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    return {}


def map_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Return the same nest with other tensors. Changed parts are copies; a nest without changes is returned itself."""
    if isinstance(value, torch.Tensor):
        return change(value)
    parts = _items(value)
    if parts is None:
        return value
    changed = {key: map_tensors(part, change) for key, part in parts.items()}
    if all(changed[key] is part for key, part in parts.items()):
        return value
    if isinstance(value, tuple):
        make = getattr(type(value), "_make", type(value))
        return make(changed.values())
    result = copy.copy(value)
    for key, part in changed.items():
        if isinstance(value, list | Mapping):
            result[key] = part
        else:
            object.__setattr__(result, key, part)  # a frozen one, too: the copy is ours
    return result


def _items(value: Any) -> dict[Any, Any] | None:
    if isinstance(value, dict):  # also those that are dataclasses as well
        return dict(value)
    if isinstance(value, list | tuple):
        return dict(enumerate(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    return None


def widened(value: Any) -> Any:
    """Return an output with float32 in place of 16-bit numbers."""
    return map_tensors(value, lambda tensor: tensor.float() if tensor.dtype in _SIXTEEN_BITS else tensor)


def has_gradient(value: Any) -> bool:
    """Return whether some tensor of an input asks for a gradient."""
    if isinstance(value, torch.Tensor):
        return value.requires_grad
    return any(map(has_gradient, _parts(value).values()))
