"""Large libraries, which a process imports when a test uses them: each process of a parallel run collects all tests."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any


class Later:
    """A module that is imported when something in it is first asked for, in place of `import` at the top of tests.

    torchvision and transformers take four seconds of the processor each. Decorators and the bodies of classes would ask
    for them when they are collected; pytest asks each object of a module for attributes of its own, which begin with _.
    """

    def __init__(self, name: str, prepare: Callable[[Any], object] | None = None) -> None:
        self._name = name
        self._prepare = prepare

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        module = import_module(self._name)
        if self._prepare:
            self._prepare(module)
            self._prepare = None
        return getattr(module, name)
