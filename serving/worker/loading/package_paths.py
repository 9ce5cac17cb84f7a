"""Our packages beside those of the user, whose archive may hold modules of the same names."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[3]


def provide(name: str, *, always: bool = False) -> None:
    """Makes a package of this project importable, by its place.

    The interpreter may be one in which it is not installed, and the folder that it lies in may hold others that must
    not be found.

    Args:
        name: of the package.
        always: also where an import would find another one of that name.
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
        del sys.modules[name]  # half of a package would serve the next one who asks
        if isinstance(error, OSError):
            raise ImportError(f"torchmar's package {name} cannot be read: {error}", name=name) from error
        raise


def make_way(folder: Path) -> None:
    """Lets modules of an archive have the names of our packages: all that is needed of ours is in memory by now."""
    for name in ("serving", "archive_tool"):
        if (folder / f"{name}.py").exists() or (folder / name).is_dir():
            for loaded in [module for module in sys.modules if module.partition(".")[0] == name]:
                del sys.modules[loaded]
