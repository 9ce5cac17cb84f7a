"""The inputs and outputs of a model, as the archive's manifest records them under the key `torchmar`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from handlers.errors import BadInputError, LoadError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: The element types that requests and replies can hold, by their names in the record.
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        torch.bool,
        torch.uint8,
        torch.uint16,
        torch.uint32,
        torch.uint64,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.float16,
        torch.bfloat16,
        torch.float32,
        torch.float64,
    )
}


@dataclass(frozen=True)
class Tensor:
    """One input or output. In `shape` None is a dimension of any size; `shape` None means that nothing is known."""

    name: str
    dtype: torch.dtype = torch.float32
    shape: tuple[int | None, ...] | None = None

    @property
    def has_rows(self) -> bool:
        """Whether its first dimension counts rows and may have any size."""
        return bool(self.shape) and self.shape is not None and self.shape[0] is None

    def check(self, tensor: torch.Tensor) -> None:
        """Refuse a tensor of another dtype or shape. No dtype is converted: numbers could change.

        Raises:
            BadInputError: the message says what was expected and what came.
        """
        if tensor.dtype != self.dtype:
            wanted, given = (str(dtype).removeprefix("torch.") for dtype in (self.dtype, tensor.dtype))
            raise BadInputError(f"the input {self.name!r} is expected in the type {wanted}, got {given}")
        expected = self.shape
        if expected is None:
            return
        found = tuple(tensor.shape)
        if len(found) != len(expected) or any(e not in (None, f) for e, f in zip(expected, found, strict=True)):
            shown = ", ".join("any" if size is None else str(size) for size in expected)
            raise BadInputError(f"the input {self.name!r} is expected in the shape [{shown}], got {list(found)}")

    def describe(self) -> dict[str, Any]:
        """Return the tensor as the manifest has it."""
        shape = None if self.shape is None else list(self.shape)
        return {"name": self.name, "dtype": str(self.dtype).removeprefix("torch."), "shape": shape}


@dataclass(frozen=True)
class Signature:
    """The inputs in the order in which the model takes them, and its outputs; empty where nothing is recorded."""

    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()

    @property
    def has_rows(self) -> bool:
        """Whether the rows of several requests may go through the model together."""
        return bool(self.inputs and self.outputs) and all(one.has_rows for one in (*self.inputs, *self.outputs))


def read_signature(manifest: Mapping[str, Any] | None) -> Signature:
    """Read the record of a manifest; a manifest without one gives an empty signature.

    Raises:
        LoadError: the record is damaged.
    """
    record = (manifest or {}).get("torchmar") or {}
    try:
        return Signature(*(tuple(read_tensor(item) for item in record.get(key) or ()) for key in ("inputs", "outputs")))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise LoadError(
            f"what the manifest says of the model's inputs and outputs cannot be used: {error}",
            hint="publish the model again, or remove `inputs` and `outputs` from the manifest",
        ) from error


def read_tensor(item: Mapping[str, Any]) -> Tensor:
    """Read one tensor of a record.

    Raises:
        KeyError, TypeError, ValueError: the item is not the record of a tensor.
    """
    name, dtype, shape = item["name"], item.get("dtype"), item.get("shape")
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"{name} is of the type {dtype!r}; known are {', '.join(DTYPES)}")
    sizes = None if shape is None else tuple(_size(size) for size in shape)
    return Tensor(str(name), torch.float32 if dtype is None else DTYPES[dtype], sizes)


def _size(size: Any) -> int | None:
    if size is not None and (isinstance(size, bool) or not isinstance(size, int)):
        raise TypeError(f"{size!r} is no size of a dimension")
    return size


def named_tensors(value: Any, known: Sequence[Tensor] = ()) -> dict[str, torch.Tensor]:
    """Return the tensors of a model's output by name: a tensor, a tuple or list of them, or a dict.

    The names are the dict's own, else those of `known` in that order, else `output`, or `output_0`, `output_1` and so
    on.

    Raises:
        TypeError: the output is something else.
    """
    if isinstance(value, torch.Tensor):
        value = [value]
    if isinstance(value, dict):
        found = {str(name): item for name, item in value.items()}
    elif isinstance(value, tuple | list):
        names = [one.name for one in known]
        if len(names) != len(value):
            names = ["output"] if len(value) == 1 else [f"output_{index}" for index in range(len(value))]
        fields = getattr(value, "_fields", None)
        found = dict(zip(fields or names, value, strict=True))
    else:
        raise TypeError(f"the model gives {type(value).__name__}, which is no tensor, and no tuple or dict of tensors")
    for name, item in found.items():
        if not isinstance(item, torch.Tensor):
            raise TypeError(f"the model gives {type(item).__name__} as {name!r}, which is no tensor")
    return found
