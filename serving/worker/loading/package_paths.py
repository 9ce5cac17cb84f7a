"""Our packages beside those of the user, whose archive may hold modules of the same names."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

_ROOT = Path(__file__).resolve().parents[3]


def provide(name: str, *, always: bool = False) -> None:
    """Make a package of this project importable, by its place.

    The interpreter may be one in which it is not installed, and the folder that it lies in may hold others that must
    not be found.

    Args:
        name: of the package.
        always: also where an import would find another one of that name.

    Raises:
        ImportError: the package cannot be read.
    """
    if name in sys.modules or (not always and importlib.util.find_spec(name) is not None):
        return
    folder = _ROOT / name
    file = folder / "__init__.py"
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=[str(folder)])
    if spec is None or spec.loader is None:
        return
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]  # half a package would break the next import
        if isinstance(error, OSError):
            raise ImportError(f"torchmar's package {name} cannot be read: {error}", name=name) from error
        raise


@contextmanager
def ours(name: str) -> Iterator[None]:
    """Let imports find the package of this project, whatever of that name is imported already or comes first.

    Afterwards the process has by that name what it had before: an archive's own copy of the SDK, or nothing yet.
    """
    others = {} if _is_ours(name) else _forget(name)
    known = name in sys.modules
    try:
        provide(name, always=True)
        yield
    finally:
        if not known:
            _forget(name)
        sys.modules.update(others)


def make_way(folder: Path) -> None:
    """Let modules of an archive have the names of our packages: all that is needed of ours is in memory by now.

    An archive may carry its own copy of the SDK, and its handler needs that one.
    """
    for name in ("serving", "archive_tool"):
        if (folder / f"{name}.py").exists() or (folder / name).is_dir():
            _forget(name)
            if _hides(name, folder):
                spec = ModuleSpec(name, None, is_package=True)
                spec.submodule_search_locations = [str(folder / name)]
                sys.modules[name] = importlib.util.module_from_spec(spec)
    if _is_ours("handlers"):
        loaded = _forget("handlers")
        importlib.invalidate_caches()
        found = importlib.util.find_spec("handlers")
        if found is not None and found.origin == loaded["handlers"].__file__:
            sys.modules.update(loaded)
    if _hides("handlers", folder):
        # A handler may need the SDK beside them.
        importlib.import_module("handlers").__path__.append(str(folder / "handlers"))


def _hides(name: str, folder: Path) -> bool:
    """Return whether our package, where it is installed, hides an archive's folder of that name without __init__.py.

    Every package comes before such folders, wherever it lies.
    """
    if not (folder / name).is_dir() or (folder / name / "__init__.py").exists():
        return False
    found = importlib.util.find_spec(name)
    return found is not None and found.origin == str(_ROOT / name / "__init__.py")


def _is_ours(name: str) -> bool:
    return getattr(sys.modules.get(name), "__file__", None) == str(_ROOT / name / "__init__.py")


def _forget(name: str) -> dict[str, ModuleType]:
    """Remove a package and all below it from the imported modules, and return it."""
    return {key: sys.modules.pop(key) for key in list(sys.modules) if key.partition(".")[0] == name}
