"""A model's answers: from the bytes of a body to a value, and from a value to JSON that every program reads."""

from __future__ import annotations

import json
import math
from typing import Any

# Raw bytes that may look like text by chance.
_BINARY = ("application/octet-stream", "application/x-npy", "application/x-npz", "application/safetensors")


def decode(body: bytes, content_type: str = "") -> Any:
    """Decode JSON where it is JSON (TorchServe names no content type for most answers), else text, else keep bytes."""
    if content_type in _BINARY:
        return body
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        return body
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def strict(value: Any) -> Any:
    """Replace the numbers that JSON does not have, NaN and the infinities, by null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: strict(item) for key, item in value.items()}
    return [strict(item) for item in value] if isinstance(value, list) else value
