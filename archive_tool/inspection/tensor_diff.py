"""Comparing the tensors of two files of weights. The only module of this package that imports torch."""

from __future__ import annotations

import math
import pickle
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch

from archive_tool.weights import scan
from archive_tool.weights.formats import Format, sniff_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_CHUNK: Final = 1 << 22  # elements that are compared at once
#: A tensor may claim more elements than its file has bytes (stride 0); a larger one of this kind is not compared.
_LARGE: Final = 1 << 26
_SHOWN: Final = 60


class NotWeightsError(Exception):
    """A file whose tensors cannot be read without running code; the message says why."""


@dataclass(frozen=True)
class TensorChange:
    """A tensor, or another value, that differs between the files.

    Attributes:
        name: path of keys in the file.
        before, after: its dtype and shape, such as ``float32 [10, 128]``, or another value as text; None if missing.
        largest: the largest difference of two elements; infinite if only one is NaN; None if shapes differ or elements
            cannot be subtracted.
    """

    name: str
    before: str | None
    after: str | None
    largest: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the change as JSON, which has no infinity."""
        largest = "infinity" if self.largest == math.inf else self.largest
        return {"name": self.name, "before": self.before, "after": self.after, "largest": largest}


def changed_tensors(first: Path, second: Path) -> Iterator[TensorChange]:
    """Compare two files that hold state dicts or safetensors, value by value.

    Raises:
        NotWeightsError: one of them holds something else, or would run code.
    """
    before, after = _read(first), _read(second)
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            yield TensorChange(name, _describe(before[name]), None)
        elif name not in before:
            yield TensorChange(name, None, _describe(after[name]))
        else:
            yield from _compare(name, before[name], after[name])


def _read(path: Path) -> dict[str, Any]:
    if sniff_file(path) is Format.SAFETENSORS:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
        except SafetensorError as error:
            raise NotWeightsError(f"not compared: {error}") from error
    with path.open("rb") as stream:
        problem = next(scan.scan(stream, "weights.pt"), None)
    if problem is not None:
        raise NotWeightsError(f"not compared: one {problem}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except (
        RuntimeError,
        ValueError,
        TypeError,
        LookupError,
        AttributeError,
        EOFError,
        pickle.UnpicklingError,
    ) as error:
        reason = str(error).split("\n")[0]
        raise NotWeightsError(f"not compared: torch.load(weights_only=True) says: {reason}") from error
    return dict(_flat(found, ""))


def _is_zip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


def _flat(value: object, path: str) -> Iterator[tuple[str, Any]]:
    """Yield the values in nested dictionaries and lists, with the path of keys to each."""
    todo: list[tuple[str, Any]] = [(path, value)]
    seen: set[int] = set()
    while todo:
        name, item = todo.pop()
        items: Mapping[Any, Any] | None = None
        if isinstance(item, dict):
            items = item
        elif isinstance(item, (list, tuple)):
            items = dict(enumerate(item))
        if items is None:
            yield name, item
        elif id(item) not in seen:  # a list may contain itself
            seen.add(id(item))
            todo += [(f"{name}.{key}" if name else str(key), inner) for key, inner in items.items()]


def _describe(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    text = repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


def _compare(name: str, before: object, after: object) -> Iterator[TensorChange]:
    shown = (_describe(before), _describe(after))
    if not isinstance(before, torch.Tensor) or not isinstance(after, torch.Tensor):
        if type(before) is not type(after) or repr(before) != repr(after):
            yield TensorChange(name, *shown)
        return
    if before.shape != after.shape:
        yield TensorChange(name, *shown)
        return
    try:
        same, largest = _difference(before, after)
    except (RuntimeError, TypeError, NotImplementedError):
        same, largest = False, None
    if not same or before.dtype != after.dtype:
        yield TensorChange(name, *shown, largest)


def _difference(before: torch.Tensor, after: torch.Tensor) -> tuple[bool, float | None]:
    """Return whether two tensors of one shape hold the same numbers, and the largest difference."""
    before, after = (tensor.detach().dequantize() if tensor.is_quantized else tensor for tensor in (before, after))
    if not all(tensor.layout is torch.strided and _is_real(tensor) for tensor in (before, after)):
        return False, None
    same, largest = True, 0.0
    old, new = before.detach().reshape(-1), after.detach().reshape(-1)
    for start in range(0, old.numel(), _CHUNK):
        x, y = old[start : start + _CHUNK], new[start : start + _CHUNK]
        if x.dtype == y.dtype and torch.equal(x, y):
            continue
        # Large integers that differ by little become the same float.
        same = same and (x.dtype != y.dtype or x.is_floating_point() or x.is_complex())
        wide = torch.complex128 if x.is_complex() or y.is_complex() else torch.float64
        x, y = x.to(wide), y.to(wide)
        equal = (x == y) | (x.isnan() & y.isnan())
        same = same and bool(equal.all())
        apart = torch.where(equal, 0.0, (x - y).abs()).nan_to_num(nan=math.inf, posinf=math.inf)
        largest = max(largest, float(apart.max()))
    return same, largest


def _is_real(tensor: torch.Tensor) -> bool:
    """Return whether the elements are in memory one by one, and not one in place of very many."""
    size = tensor.numel() * tensor.element_size()
    return size <= _LARGE or size <= tensor.untyped_storage().nbytes()
