"""Import of torchvision without torch's compiler.

`torchvision.ops.roi_align` takes one function from `torch._dynamo.utils`, which it calls for deterministic algorithms
on a GPU and never else. That one line makes ``import torchvision`` import torch._dynamo, torch._inductor and sympy:
half of the time that a worker with an image handler takes to start, and a hundred megabytes. Here it gets a function
that imports them when it is called.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any, Final

_IMPORTER: Final = "torchvision.ops.roi_align"
_PACKAGE: Final = "torch._dynamo"
_MODULE: Final = "torch._dynamo.utils"
_FUNCTION: Final = "is_compile_supported"


def install() -> None:
    """Take care of the import, whatever causes it in this process; nothing else of it changes."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _IMPORTER or _PACKAGE in sys.modules:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)  # what shows the source of a module, in a traceback for one

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        stand_ins = {name: _StandIn(name) for name in (_PACKAGE, _MODULE)}
        sys.modules.update(stand_ins)
        try:
            self._loader.exec_module(module)
        finally:
            _forget(stand_ins)


class _StandIn(ModuleType):
    """A stand-in for a module, which becomes it when more of it is asked for than that function."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []  # a package, to any import of a module of it

    def __getattr__(self, name: str) -> Any:
        if self.__name__ == _MODULE and name == _FUNCTION:
            return _is_compile_supported
        if name.startswith("__"):  # the import system's own questions
            raise AttributeError(name)
        _forget({one: sys.modules.get(one) for one in (_PACKAGE, _MODULE)})
        return getattr(importlib.import_module(self.__name__), name)


def _forget(stand_ins: dict[str, Any]) -> None:
    for name, module in stand_ins.items():
        if isinstance(module, _StandIn) and sys.modules.get(name) is module:
            del sys.modules[name]


def _is_compile_supported(device_type: str) -> bool:
    return bool(getattr(importlib.import_module(_MODULE), _FUNCTION)(device_type))
