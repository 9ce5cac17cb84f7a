"""From what a handler gives for a request to the bytes of the answer."""

from __future__ import annotations

import io
import json
import sys
from typing import Any

from serving.protocol.messages import Body


class BodyError(Exception):
    """A value that cannot be sent; the text says of which type it, or what in it, is."""


_dumps = json.dumps
_SCALARS = frozenset({int, float, bool, type(None)})


def encode(value: Any) -> Body:
    """Bytes as they are, text as UTF-8, a tensor as `torch.save` writes it, all else as JSON.

    JSON is indented by two blanks and may hold NaN and Infinity, as clients of TorchServe know it. Arrays and scalars
    of NumPy, and tensors, may stand in it.

    Raises:
        BodyError: a type that JSON does not have, or a value that holds itself.
    """
    kind = type(value)
    if kind is bytes or kind is bytearray:
        return value  # type: ignore[no-any-return]
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    if kind in _SCALARS:
        return _dumps(value).encode()  # without an indent json uses its C code
    if isinstance(value, memoryview):
        return value
    if _is_tensor(value):
        return _saved(value)
    try:
        return _dumps(value, indent=2, default=_plain).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BodyError(f"{type(value).__name__}: {error}") from error


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")  # without torch there are no tensors
    return torch is not None and isinstance(value, torch.Tensor)


def _saved(value: Any) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    """What JSON has for a value of NumPy or torch; called for what is inside a container, too."""
    if _is_tensor(value):
        return value.tolist()
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray | numpy.generic):
        return value.tolist()
    raise TypeError(f"an object of type {type(value).__name__} is not JSON serializable")
