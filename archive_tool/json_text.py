"""Reading untrusted JSON: its cost is bounded, and it means the same to every reader. And writing JSON.

If a key is there twice, Python takes the last value, other readers the first one, or they fail. What was checked could
then differ from what is used, so such a document is refused. So is one that is not UTF-8, whose encoding Python would
guess.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

#: Bytes of a document, if its reader sets no smaller bound: the record of 100,000 members has about this many.
MAX_BYTES: Final = 16 << 20
#: Objects and lists of a document: a header of weights has three for each tensor, a record one for each member.
MAX_PARTS: Final = 500_000
#: Values of a document.
MAX_VALUES: Final = 2_000_000
#: Nested objects and lists.
MAX_DEPTH: Final = 50


class NotJsonError(ValueError):
    """A document that is not JSON, that readers disagree on, or that costs too much to read."""


def loads(text: bytes, *, max_bytes: int = MAX_BYTES) -> Any:
    """Read a document.

    Raises:
        NotJsonError: it is not JSON, is not UTF-8, has a key twice in an object, is longer than `max_bytes`, or has
            more parts, values or depth than any honest one.
    """
    if len(text) > max_bytes:
        raise NotJsonError(f"it has more than {max_bytes} bytes")
    # Counted before anything is parsed. Those within texts count too; no honest document comes near.
    if text.count(b"{") + text.count(b"[") > MAX_PARTS or text.count(b",") > MAX_VALUES:
        raise NotJsonError(f"it has more than {MAX_PARTS} parts or {MAX_VALUES} values")
    try:
        document = json.loads(text.decode("utf-8"), object_pairs_hook=_object)
    except NotJsonError:
        raise
    except UnicodeDecodeError as error:
        raise NotJsonError("it is not UTF-8") from error
    # ValueError covers bad JSON and numbers of absurd length.
    except (ValueError, RecursionError) as error:
        raise NotJsonError(str(error)) from error
    _check_depth(document)
    return document


def dumps(document: Any, *, indent: int | None = None, default: Callable[[Any], Any] | None = None) -> bytes:
    """Write a document in UTF-8, as it reads; a lone surrogate, which has none, as JSON's own escape of it.

    Raises:
        TypeError, ValueError, RecursionError: as `json.dumps`.
    """
    return json.dumps(document, indent=indent, ensure_ascii=False, default=default).encode("utf-8", "backslashreplace")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise NotJsonError(f"the key {json.dumps(twice)[:100]} is there twice in one object")
    return document


def _check_depth(document: Any) -> None:
    """Refuse a depth that would exceed the recursion limit of code that walks the document."""
    level = [document]
    for _ in range(MAX_DEPTH):
        level = [
            item
            for part in level
            if isinstance(part, (dict, list))
            for item in (part.values() if isinstance(part, dict) else part)
            if isinstance(item, (dict, list))
        ]
        if not level:
            return
    raise NotJsonError(f"it has more than {MAX_DEPTH} parts within each other")
