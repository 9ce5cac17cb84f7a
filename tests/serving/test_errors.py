from __future__ import annotations

import re
from collections.abc import Iterator

from serving import errors
from serving.errors import ModelLoadError, ReplyError, ServingError


def tree(kind: type[ServingError]) -> Iterator[type[ServingError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from tree(child)


def test_the_docstring_draws_the_tree() -> None:
    drawn = dict(re.findall(r"(\w+Error)\s+(\d+)", errors.__doc__ or ""))
    assert drawn == {kind.__name__: str(kind.exit_code) for kind in tree(ServingError)}


def test_parts_are_kept_apart() -> None:
    error = ReplyError("no", status=404, kind="K", where="w", hint="h")
    assert (error.message, error.status, error.kind, error.where, error.hint) == ("no", 404, "K", "w", "h")
    assert ModelLoadError("no", model="m").traceback == ""
