"""The entry point that TorchServe calls in a handler's file, as far as its source shows.

The rule is that of its model loader: a name at the module's top level that equals the function's (``handle`` if the
reference names none), else exactly one class that the module defines.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from enum import Enum
from typing import Final

from archive_tool.analysis import python_source

DEFAULT_FUNCTION: Final = "handle"


class Kind(Enum):
    """The result of the rule; the value is the word shown to users, where there is something to call."""

    FUNCTION = "function"
    CLASS = "class"
    NOTHING = "nothing"
    SEVERAL_CLASSES = "several classes"
    UNKNOWN = "unknown"  # only running the file can tell


@dataclass(frozen=True)
class Found:
    """The entry point that TorchServe will call.

    Attributes:
        kind: of the entry point.
        function: the name that is looked for first.
        names: everything that the module binds.
        line: of the function or class, if it is found.
    """

    kind: Kind
    function: str
    names: python_source.Names
    line: int | None = None

    @property
    def name(self) -> str | None:
        """The name of the function or class; None if there is neither for certain."""
        if self.kind is Kind.FUNCTION:
            return self.function
        return self.names.classes[0].name if self.kind is Kind.CLASS else None


def find(tree: ast.Module, function: str | None) -> Found:
    """Apply the rule to a handler's syntax tree.

    Args:
        tree: of the file.
        function: the name after the colon of the reference; None or empty if there is none.
    """
    names = python_source.names(tree)
    wanted = function or DEFAULT_FUNCTION
    if wanted in names.bound:
        return Found(Kind.FUNCTION, wanted, names, python_source.line_of(tree, wanted))
    if names.dynamic:
        return Found(Kind.UNKNOWN, wanted, names)
    if not names.classes:
        return Found(Kind.NOTHING, wanted, names)
    if len(names.certain_classes) > 1:
        return Found(Kind.SEVERAL_CLASSES, wanted, names)
    if len(names.classes) == 1:
        return Found(Kind.CLASS, wanted, names, names.classes[0].lineno)
    return Found(Kind.UNKNOWN, wanted, names)
