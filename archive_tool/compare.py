"""Comparing an answer with the expected one, and naming the differences."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

from handlers.wording import first_of

if TYPE_CHECKING:
    from collections.abc import Iterator

#: The relative difference below which two numbers are equal: float32 on another machine, another number of threads or
#: another version of torch keeps about five digits.
RELATIVE: Final = 1e-4
#: The same for float16 and bfloat16, which have three digits or two.
COARSE: Final = 2e-2
#: Or by less than this, for numbers near zero.
ABSOLUTE: Final = 1e-6
_SHOWN: Final = 3
_LENGTH: Final = 60


def difference(expected: bytes, actual: bytes, *, relative: float = RELATIVE, absolute: float = ABSOLUTE) -> str | None:
    """Say how an answer differs from the expected one; None if it does not.

    JSON is compared by its values, numbers within a tolerance; text without leading and trailing blanks; anything else
    exactly.
    """
    if actual == expected:
        return None
    try:
        wanted = json.loads(expected)
    except (ValueError, RecursionError):
        return _text_difference(expected, actual)
    try:
        given = json.loads(actual)
    except (ValueError, RecursionError):
        return f"expected JSON, got {_shown_bytes(actual)}"
    return json_difference(wanted, given, relative=relative, absolute=absolute)


def json_difference(
    expected: Any, actual: Any, *, relative: float = RELATIVE, absolute: float = ABSOLUTE
) -> str | None:
    """Say how two JSON values differ, with the paths of the first few differences; None if they do not."""
    try:
        found = list(_differences("$", expected, actual, relative, absolute))
    except RecursionError:
        return "nested too deep to be compared"
    if not found:
        return None
    return first_of(found, _SHOWN, "; ")


def _differences(path: str, expected: Any, actual: Any, relative: float, absolute: float) -> Iterator[str]:
    if isinstance(expected, dict) and isinstance(actual, dict):
        for key in expected:
            if key not in actual:
                yield f"{path}.{key} is missing"
            else:
                yield from _differences(f"{path}.{key}", expected[key], actual[key], relative, absolute)
        yield from (f"{path}.{key} was not expected" for key in actual if key not in expected)
    elif isinstance(expected, list) and isinstance(actual, list):
        if len(expected) != len(actual):
            yield f"{path} has {len(actual)} items, {len(expected)} were expected"
            return
        for index, (one, other) in enumerate(zip(expected, actual, strict=True)):
            yield from _differences(f"{path}[{index}]", one, other, relative, absolute)
    elif _is_number(expected) and _is_number(actual):
        if not _close(expected, actual, relative, absolute):
            yield f"{path} is {_shown(actual)}, {_shown(expected)} was expected"
    elif type(expected) is not type(actual) or expected != actual:
        yield f"{path} is {_shown(actual)}, {_shown(expected)} was expected"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _close(one: float, other: float, relative: float, absolute: float) -> bool:
    if one == other:
        return True
    try:
        both_nan = math.isnan(one) and math.isnan(other)
        return both_nan or math.isclose(one, other, rel_tol=relative, abs_tol=absolute)
    except OverflowError:  # an integer beyond any float
        return False


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _LENGTH else text[: _LENGTH - 3] + "..."


def _text_difference(expected: bytes, actual: bytes) -> str | None:
    try:
        if expected.decode().strip() == actual.decode().strip():
            return None
    except UnicodeDecodeError:
        pass
    return f"expected {_shown_bytes(expected)}, got {_shown_bytes(actual)}"


def _shown_bytes(data: bytes) -> str:
    try:
        return _shown(data.decode())
    except UnicodeDecodeError:
        return f"{len(data)} bytes that are no text"
