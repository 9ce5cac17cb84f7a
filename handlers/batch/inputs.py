"""Values from requests, and numbers from values."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import torch

from handlers.errors import BadInputError
from handlers.wording import first_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_DEEPEST = 128  # nested lists; torch makes a tensor of no more dimensions
_SHOWN = 40  # characters of a client's text that an error quotes
_SHOWN_NAMES = 8  # fields of a form
_CURL = "curl -d sends a form unless -H 'Content-Type: ...' says what it is"
NUMBERS = "a JSON list of numbers, or one number"


def names_of_input(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the parameters that hold the input: `data` and `body`, or the only one."""
    found = tuple(name for name in ("data", "body") if name in row)
    return found or (tuple(row) if len(row) == 1 else ())


def row_value(row: Any) -> Any:
    """Take the input out of one request: the parameter `data`, else `body`, else the only one.

    A row that is not a dict (behind an envelope) is the input itself. None means that there is no input.
    """
    if not isinstance(row, dict):
        return row
    values = [row[name] for name in names_of_input(row) if row[name] is not None]
    return next((value for value in values if not _is_blank(value)), values[0] if values else None)


def require(value: Any, fields: Any, wanted: str) -> None:
    """Refuse a request without an input.

    Args:
        value: the input, as `row_value` returns it.
        fields: the request's parameters by name; anything but a dict if the parameters are not known.
        wanted: what to send.

    Raises:
        BadInputError: there is no input.
    """
    if not is_empty(value):
        return
    names = [str(name) for name in fields] if isinstance(fields, dict) else ["body"]
    if not names:  # the frontend drops a field without a value, and curl sends a text as such a field
        raise BadInputError(f"the request has no body, and is no form with a value: send {wanted}; {_CURL}")
    if not set(names) - {"data", "body"}:
        raise BadInputError(f"the request has no body: send {wanted}")
    shown = first_of(
        names, _SHOWN_NAMES, shown=lambda name: repr(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}...")
    )
    if len(names) == 1:
        raise BadInputError(
            f"the request is a form with the field {shown} alone, which is empty: send {wanted}; {_CURL}"
        )
    raise BadInputError(f"the request is a form without data or body, it has {shown}: send {wanted} as data")


def is_empty(value: Any) -> bool:
    """Return whether a request came without an input, or with an empty one."""
    return value is None or _is_blank(value)


def _is_blank(value: Any) -> bool:
    return isinstance(value, bytes | bytearray | memoryview | str) and len(value) == 0


def rows_to_tensor(rows: Sequence[Any], device: torch.device | None) -> torch.Tensor:
    """Stack the numbers of all requests into a tensor, `[batch, ...]`.

    Requests become float32. Bare values (behind an envelope, or from Python) keep the dtype that `torch.as_tensor`
    picks.

    Raises:
        BadInputError: a request holds no numbers, or their shapes differ.
    """
    if not any(isinstance(row, dict) for row in rows):
        try:
            return torch.as_tensor(rows, device=device)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            pass  # perhaps texts or bytes: read them as requests are read
    values = [_parse(row_value(row), row) for row in rows]
    try:
        if any(isinstance(value, torch.Tensor) for value in values):
            return torch.stack([torch.as_tensor(value, dtype=torch.float32, device=device) for value in values])
        return torch.as_tensor(values, dtype=torch.float32, device=device)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        for value in values:
            numbers_to_tensor(value)  # raises an error that names the problem
        raise BadInputError(f"the inputs of a batch do not have one shape: {error}") from error


def numbers_to_tensor(value: Any, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """Make a tensor of one request's nested lists of numbers.

    No number changes its value, except by rounding to a floating-point dtype: a fraction is refused where integers are
    taken, and so is a number that the dtype cannot hold.

    Raises:
        BadInputError: the value is not nested lists of numbers, or the dtype cannot hold one of them.
    """
    try:
        if dtype.is_floating_point:
            exact = torch.float64 if dtype is torch.float64 else torch.float32
            return torch.as_tensor(value, dtype=exact).to(dtype)
        # torch takes no integer above the largest int64, and in a list with one fraction it turns all numbers into
        # floating point: those of more than 53 bits change.
        found = None if dtype is torch.uint64 else torch.as_tensor(value)
        if found is None or found.is_floating_point():
            return _whole_numbers(value, dtype)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        _shape(value, "", 0)
        raise BadInputError(f"the input cannot be made a tensor: {error}") from error
    low, high = _limits(dtype)
    wrong = (found < low) | (found > high)
    if wrong.any():
        place = tuple(wrong.nonzero()[0].tolist())
        raise _no_number(found[place].item(), dtype, place)
    return found.to(dtype)


def _whole_numbers(value: Any, dtype: torch.dtype) -> torch.Tensor:
    """Make a tensor of Python's numbers, one by one: each is exact, whatever the others are."""
    import numpy as np

    low, high = _limits(dtype)
    found = np.array(value, dtype=object)
    for place, number in np.ndenumerate(found):
        if not isinstance(number, int | float):
            raise TypeError(f"{type(number).__name__} is no number")  # perhaps a list among numbers
        # Infinity and NaN are not integers, and the comparison says so.
        if not low <= number <= high or number != int(number):
            raise _no_number(number, dtype, place)
    whole = np.array([int(number) for number in found.flat], np.uint64 if dtype is torch.uint64 else np.int64)
    return torch.from_numpy(whole.reshape(found.shape)).to(dtype)


def _limits(dtype: torch.dtype) -> tuple[int, int]:
    return (0, 1) if dtype is torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)


def _no_number(number: float, dtype: torch.dtype, place: tuple[int, ...]) -> BadInputError:
    name = str(dtype).removeprefix("torch.")
    where = f" ({_element(''.join(f'[{index}]' for index in place))})" if place else ""
    if isinstance(number, int) and not -(2**63) <= number < 2**64:
        return BadInputError(f"a whole number of more than 64 bits is no {name}{where}")
    return BadInputError(f"{number} is no {name}{where}")


def _parse(value: Any, row: Any) -> Any:
    """Read JSON where the worker did not, because the request named no content type."""
    require(value, row, NUMBERS)
    value = read_json(value, NUMBERS)
    if isinstance(value, dict):
        names = ", ".join(sorted(map(str, value))[:5])
        raise BadInputError(f"the body is a JSON object (with {names or 'no keys'}): send a list of numbers")
    return value


def read_json(value: Any, wanted: str) -> Any:
    """Return the JSON of a request's body, whether or not the worker has parsed it; `wanted` is what errors ask for.

    Raises:
        BadInputError: it is not JSON.
    """
    if is_empty(value):
        raise BadInputError(f"the request has no body: send {wanted}")
    if isinstance(value, bytes | bytearray | memoryview | str):
        try:
            return json.loads(value if isinstance(value, str) else bytes(value))
        except (ValueError, RecursionError) as error:
            raise BadInputError(f"the body is not JSON: send {wanted}") from error
    return value


def _shape(value: Any, place: str, depth: int) -> tuple[int, ...]:
    """Return the shape of nested lists.

    Raises:
        BadInputError: it names the first part that keeps them from being a tensor.
    """
    if isinstance(value, list | tuple):
        if depth == _DEEPEST:
            raise BadInputError(f"the lists are nested more than {_DEEPEST} deep")
        shapes = [_shape(item, f"{place}[{index}]", depth + 1) for index, item in enumerate(value)]
        for index, shape in enumerate(shapes):
            if shape != shapes[0]:
                raise BadInputError(
                    f"the lists are not of equal lengths: element {place}[0] has the shape {list(shapes[0])}, "
                    f"element {place}[{index}] has {list(shape)}"
                )
        return (len(value), *(shapes[0] if shapes else ()))
    if isinstance(value, str):
        shown = value if len(value) <= _SHOWN else value[:_SHOWN] + "..."
        raise BadInputError(f"{_element(place)} is the text {shown!r} and not a number")
    if value is None or isinstance(value, dict):
        raise BadInputError(f"{_element(place)} is {'null' if value is None else 'an object'} and not a number")
    if isinstance(value, int) and not isinstance(value, bool) and not -(2**63) <= value < 2**63:
        raise BadInputError(f"{_element(place)} is a whole number of more than 64 bits")
    return ()


def _element(place: str) -> str:
    return f"element {place}" if place else "the input"
