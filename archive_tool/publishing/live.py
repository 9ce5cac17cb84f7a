"""The live model and its example: inputs, outputs, and whether its rows are independent of each other."""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

from archive_tool.errors import BuildError
from archive_tool.metadata.record import TensorSpec
from handlers.loading.signature import DTYPES, named_tensors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Shapes = Mapping[str, Sequence[int | None]]

#: The number of rows of the example that are compared with the archive's answers.
ROWS: Final = 4
#: The difference allowed between an answer for a row alone and among others: the order of sums depends on sizes.
_SAME: Final = 1e-3


@dataclass(frozen=True)
class Example:
    """Inputs of a model, with its outputs for them.

    Attributes:
        inputs: tensors on the CPU, by the names of the model's arguments, in their order.
        outputs: the live model's outputs for them, on the CPU.
        has_rows: whether the first dimension of each is a number of rows that are independent of each other.
        shapes: of the inputs as they are recorded; None is any size.
        warnings: probable mistakes.
    """

    inputs: dict[str, torch.Tensor]
    outputs: dict[str, torch.Tensor]
    has_rows: bool
    shapes: dict[str, tuple[int | None, ...]]
    warnings: tuple[str, ...] = ()

    def input_specs(self) -> tuple[TensorSpec, ...]:
        """Return the inputs as the manifest records them."""
        return tuple(TensorSpec(name, _dtype(one), self.shapes[name]) for name, one in self.inputs.items())

    def output_specs(self) -> tuple[TensorSpec, ...]:
        """Return the outputs as the manifest records them; a size that may change with an input is not known."""
        free = {
            size
            for name, one in self.inputs.items()
            for size, recorded in list(zip(one.shape, self.shapes[name], strict=True))[int(self.has_rows) :]
            if recorded is None
        }
        return tuple(TensorSpec(name, _dtype(one), self._output_shape(one, free)) for name, one in self.outputs.items())

    def _output_shape(self, output: torch.Tensor, free: set[int]) -> tuple[int | None, ...]:
        sizes = [None if size in free else size for size in output.shape]
        return (None, *sizes[1:]) if self.has_rows else tuple(sizes)

    def first(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Return the first row's inputs and outputs; all of them if the model has no rows."""
        if not self.has_rows:
            return self.inputs, self.outputs
        return {name: one[:1] for name, one in self.inputs.items()}, {
            name: one[:1] for name, one in self.outputs.items()
        }


def unwrap(model: object) -> nn.Module:
    """Return the module itself, without the wrappers of training or compiling.

    Raises:
        BuildError: it is not a module.
    """
    while isinstance(model, nn.Module):
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):  # of torch.compile
            model = inner
        else:
            return model
    raise BuildError(
        f"the model is {type(model).__name__}, and not a torch.nn.Module", hint="publish(model, name=..., ...)"
    )


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model in eval mode and compute no gradients; afterwards restore the mode of each part."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for part, training in modes:
            part.training = training


def run(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Run the model on its own device; return its outputs by name, on the CPU.

    Raises:
        BuildError: it fails, or returns something other than tensors.
    """
    device = device_of(model)
    try:
        with evaluating(model):
            found = model(*(one.to(device) for one in inputs.values()))
    except Exception as error:  # the user's model may raise anything
        shapes = ", ".join(f"{name} {_dtype(one)} {list(one.shape)}" for name, one in inputs.items())
        raise BuildError(
            f"the model fails on its example ({shapes}): {type(error).__name__}: {error}",
            hint="give an example of the shape and type that the model takes; of several inputs a tuple, or a dict",
        ) from error
    try:
        return {name: one.detach().cpu().clone() for name, one in named_tensors(found).items()}
    except TypeError as error:
        raise BuildError(
            str(error), hint="wrap it in a module that gives tensors, or write a handler and use archive_tool.build"
        ) from error


def device_of(model: nn.Module) -> torch.device:
    """Return the model's device: that of its first parameter or buffer."""
    for one in (*model.parameters(), *model.buffers()):
        return one.device
    return torch.device("cpu")


def study(model: nn.Module, example: object, *, batch: bool = True, shapes: Shapes | None = None) -> Example:
    """Run the model on an example, and find its inputs and outputs.

    Args:
        model: the live model.
        example: a tensor or array, a tuple of them in the order of the model's arguments, or a dict by their names.
        batch: False keeps the example's shape, whether or not the model takes rows.
        shapes: what to record for an input instead of what was found; None in it is any size.

    Raises:
        BuildError: the model cannot run it, or returns something other than tensors.
    """
    inputs = read_inputs(model, example)
    rows = _rows(inputs) if batch else None
    warnings = []
    if rows == 0:
        raise BuildError("the example has no rows")
    if rows is not None:
        # At least two rows: one alone would not show whether the model takes any number of them.
        some = {name: torch.cat([one, one]) if rows == 1 else one[:ROWS] for name, one in inputs.items()}
        outputs = run(model, some)
        if _are_independent(model, some, outputs):
            return Example(some, outputs, True, _shapes(some, shapes, has_rows=True))
        warnings.append(
            "an answer of the model does not belong to one row of its input alone, so the archive takes inputs of "
            "exactly the example's shape, and one request at a time"
        )
    return Example(inputs, run(model, inputs), False, _shapes(inputs, shapes, has_rows=False), tuple(warnings))


def read_inputs(model: nn.Module, example: object) -> dict[str, torch.Tensor]:
    """Return an example's tensors by the names of the model's arguments, in their order.

    Raises:
        BuildError: it does not fit the arguments, or is not an array of numbers.
    """
    names, more = _arguments(model)
    if isinstance(example, dict):
        given = {str(name): value for name, value in example.items()}
        if unknown := [name for name in given if name not in names]:
            raise BuildError(
                f"the example has {', '.join(map(repr, unknown))}, which is no argument of the model's forward",
                hint=f"its arguments are {', '.join(names) or 'none'}",
            )
        if set(given) != set(names[: len(given)]):
            missing = next(name for name in names if name not in given)
            raise BuildError(
                f"the example has no {missing!r}, which comes before others in the model's forward",
                hint=f"give {missing!r} too, or wrap the model in a module that takes only what is sent",
            )
        given = {name: given[name] for name in names if name in given}
    else:
        values = example if isinstance(example, tuple) else (example,)
        if len(values) > len(names) and not more:
            raise BuildError(
                f"the example has {len(values)} inputs, and the model's forward takes {len(names)}",
                hint="a tuple is one input for each of its parts; rows belong into one tensor",
            )
        names = [*names, *(f"input_{index}" for index in range(len(names), len(values)))]
        given = dict(zip(names, values, strict=False))
    if not given:
        raise BuildError("the example is empty", hint="give a tensor, a tuple of them, or a dict by name")
    return {name: _tensor(model, name, value) for name, value in given.items()}


def rows_of(inputs: Mapping[str, torch.Tensor]) -> int:
    """Return how many rows the inputs have.

    Raises:
        BuildError: their first dimensions differ.
    """
    rows = _rows(inputs)
    if rows is None:
        raise BuildError("the inputs do not have one number of rows, which is their first dimension")
    return rows


def _arguments(model: nn.Module) -> tuple[list[str], bool]:
    """Return the names of the arguments of forward, and whether it takes more of them."""
    if isinstance(model, torch.jit.ScriptModule):
        schema: Any = model.forward.schema  # type: ignore[attr-defined]
        return [one.name for one in schema.arguments if one.name != "self"], False
    kinds = inspect.Parameter
    parameters = inspect.signature(model.forward).parameters.values()
    named = (kinds.POSITIONAL_ONLY, kinds.POSITIONAL_OR_KEYWORD)
    return [one.name for one in parameters if one.kind in named], any(
        one.kind is kinds.VAR_POSITIONAL for one in parameters
    )


def _tensor(model: nn.Module, name: str, value: Any) -> torch.Tensor:
    if isinstance(value, torch.Tensor):
        tensor = value.detach().cpu()
    else:
        try:
            import numpy

            tensor = torch.from_numpy(numpy.array(value, order="C"))
        except (TypeError, ValueError, RuntimeError) as error:
            raise BuildError(
                f"{name} of the example is no array of numbers: {error}", hint="give a tensor or an array"
            ) from error
        if tensor.dtype is torch.float64:  # NumPy's default, and rarely a model's
            tensor = tensor.to(
                next((one.dtype for one in model.parameters() if one.is_floating_point()), torch.float32)
            )
    if _dtype(tensor) not in DTYPES:
        raise BuildError(f"{name} of the example is of the type {_dtype(tensor)}, which JSON does not hold")
    if tensor.layout is not torch.strided or tensor.is_quantized:
        raise BuildError(f"{name} of the example is sparse or quantized", hint="give it dense: value.to_dense()")
    return tensor


def _rows(inputs: Mapping[str, torch.Tensor]) -> int | None:
    sizes = {one.shape[0] if one.dim() else None for one in inputs.values()}
    return sizes.pop() if len(sizes) == 1 else None


def _are_independent(model: nn.Module, inputs: dict[str, torch.Tensor], outputs: dict[str, torch.Tensor]) -> bool:
    """Return whether the first row has the same output alone as among others."""
    count = rows_of(inputs)
    if any(not one.dim() or one.shape[0] != count for one in outputs.values()):
        return False
    try:
        alone = run(model, {name: one[:1] for name, one in inputs.items()})
    except BuildError:
        return False
    return alone.keys() == outputs.keys() and all(
        one.shape == outputs[name][:1].shape and difference(one, outputs[name][:1]) <= _SAME
        for name, one in alone.items()
    )


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Return the largest difference: relative if the expected number is above 1, else absolute; inf if NaNs differ."""
    if not expected.numel():
        return 0.0
    a, b = found.double(), expected.double()
    same = (a == b) | (a.isnan() & b.isnan())
    gap = torch.where(same, torch.zeros_like(a), (a - b).abs() / b.abs().clamp(min=1.0))
    return float(gap.nan_to_num(nan=float("inf")).max())


def _shapes(
    inputs: Mapping[str, torch.Tensor], given: Shapes | None, *, has_rows: bool
) -> dict[str, tuple[int | None, ...]]:
    found: dict[str, tuple[int | None, ...]] = {
        name: (None, *one.shape[1:]) if has_rows else tuple(one.shape) for name, one in inputs.items()
    }
    for name, shape in (given or {}).items():
        if name not in inputs:
            raise BuildError(f"shapes has {name!r}, and the inputs are {', '.join(map(repr, inputs))}")
        size = tuple(inputs[name].shape)
        if len(shape) != len(size) or any(
            s not in (None, e) for s, e in zip(shape[has_rows:], size[has_rows:], strict=True)
        ):
            raise BuildError(
                f"the shape {list(shape)} for {name!r} does not fit the example, which has {list(size)}",
                hint="give the example's own sizes, and None for each that may be another one",
            )
        found[name] = (None, *shape[1:]) if has_rows else tuple(shape)
    return found


def _dtype(tensor: torch.Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
