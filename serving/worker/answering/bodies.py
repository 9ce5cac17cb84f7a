"""Encoding of what a handler returns for a request into the bytes of the answer."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import time
from typing import Any

from serving.protocol.messages import Body
from serving.worker.loading.failures import is_out_of_memory, text_of

logger = logging.getLogger(__name__)


class BodyError(Exception):
    """A value that cannot be sent; the text says of which type it, or what in it, is."""


_dumps = json.dumps
_SCALARS = frozenset({int, float, bool, type(None)})
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"')
_WARNING_PAUSE_S = 60.0


def encode(value: Any) -> Body:
    """Encode bytes as they are, text as UTF-8, a tensor as `torch.save` writes it, all else as JSON.

    JSON is indented by two blanks. Numbers that it does not have are written as Python and TorchServe write them, NaN
    and Infinity, and the log says so. Arrays and scalars of NumPy, and tensors of any layout, may stand in it, and the
    scalars name members of objects, too. A lone surrogate in JSON is written as JSON's escape.

    Raises:
        BodyError: a type that JSON does not have, a value that holds itself, an object that fails when it is read, or a
            text with a lone surrogate, which UTF-8 does not have.
    """
    try:
        return _encoded(value)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        kind = type(value).__name__
        if isinstance(error, TypeError | ValueError | RecursionError):
            raise BodyError(f"{kind}: {text_of(error)}") from error
        # The text of any other error is not for clients.
        logger.warning("%s cannot be read", kind, exc_info=error)
        raise BodyError(f"{kind}: reading it raised {type(error).__name__}") from error


def _encoded(value: Any) -> Body:
    kind = type(value)
    if kind is bytes or kind is bytearray:
        return value  # type: ignore[no-any-return]
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, str):
        return str.encode(value, "utf-8")
    if isinstance(value, memoryview):
        return value.tobytes()
    if _is_tensor(value):
        return _saved(value)
    if kind in _SCALARS:
        text = _dumps(value)  # without an indent json uses its C code
    else:
        try:
            text = _dumps(value, indent=2, default=_plain)
        except TypeError:
            text = _dumps(_with_plain_names(value), indent=2, default=lambda one: _with_plain_names(_plain(one)))
    if "NaN" in text or "Infinity" in text:
        _no_numbers.tell(text)
    return text.encode()


class _NoNumbers:
    """A watch for answers with NaN or Infinity, which it logs; it looks at most once a minute."""

    def __init__(self) -> None:
        self._next = 0.0

    def tell(self, text: str) -> None:
        """Warn if one of them stands outside the strings of this JSON."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _WARNING_PAUSE_S
        outside = _STRING.sub("", text)
        found = next((name for name in ("NaN", "Infinity") if name in outside), None)
        if found:
            logger.warning(
                "An answer holds %s, which many readers of JSON refuse; it is sent as TorchServe sends it", found
            )


_no_numbers = _NoNumbers()


def _is_tensor(value: Any) -> bool:
    torch = sys.modules.get("torch")  # without torch there are no tensors
    return torch is not None and isinstance(value, torch.Tensor)


def _saved(value: Any) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def _plain(value: Any) -> Any:
    """Convert a value of NumPy or torch to what JSON has; called for what is inside a container, too."""
    if _is_tensor(value):
        return _numbers(value)
    if _is_numpy(value):
        return value.tolist()
    raise TypeError(f"an object of type {type(value).__name__} is not JSON serializable")


def _is_numpy(value: Any) -> bool:
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray | numpy.generic)


def _numbers(tensor: Any) -> Any:
    import torch

    if tensor.is_meta:
        raise TypeError(f"a {type(tensor).__name__} on the device meta has no numbers")
    try:
        if tensor.is_nested:
            return [_numbers(one) for one in tensor.unbind()]
        dense = tensor.dequantize() if tensor.is_quantized else tensor
        return (dense if dense.layout is torch.strided else dense.to_dense()).tolist()
    except RuntimeError as error:  # of subclasses, and of sparse ones that are too large
        if is_out_of_memory(error):
            raise
        kind = f"a {type(tensor).__name__} of {tensor.dtype} and the layout {tensor.layout}"
        raise TypeError(f"{kind} cannot be written as numbers") from error


def _with_plain_names(value: Any) -> Any:
    """Return the value with the names of members as JSON has them, where they are scalars of NumPy or torch."""
    if isinstance(value, dict):
        return {_name(key): _with_plain_names(one) for key, one in value.items()}
    return [_with_plain_names(one) for one in value] if isinstance(value, list | tuple) else value


def _name(key: Any) -> Any:
    return _plain(key) if _is_numpy(key) or _is_tensor(key) else key
