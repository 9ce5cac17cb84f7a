"""The model class of an archive's model file."""

from __future__ import annotations

import importlib.util
import inspect
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from handlers.errors import ModelFileError

if TYPE_CHECKING:
    from types import ModuleType


def load_model_class(path: Path) -> type[nn.Module]:
    """Import the model file and find the one `nn.Module` that it defines.

    Helper classes that are not modules may stand beside it. If a file defines several modules, `__all__` may name the
    one to serve.

    Raises:
        ModelFileError: the file cannot be imported, or defines no such class.
    """
    module = import_model_file(path)
    classes = {
        name: value
        for name, value in vars(module).items()
        if inspect.isclass(value) and value.__module__ == module.__name__ and issubclass(value, nn.Module)
    }
    exported = [classes[name] for name in getattr(module, "__all__", ()) if name in classes]
    found = exported if len(exported) == 1 else list(dict.fromkeys(classes.values()))
    if len(found) == 1:
        return found[0]
    if not found:
        raise ModelFileError(
            f"{path} defines no subclass of torch.nn.Module",
            hint="a model file defines the model's class itself; one that it only imports does not count",
        )
    names = ", ".join(sorted(classes))
    raise ModelFileError(
        f"{path} defines {len(found)} subclasses of torch.nn.Module: {names}",
        hint="name the one to serve in the file's __all__, or move the others to a file of their own "
        "and add that with --extra-files",
    )


def import_model_file(path: Path) -> ModuleType:
    """Import a Python file under its stem; if that file was imported before, return that module.

    Raises:
        ModelFileError: the file is missing, is not Python, or its import fails.
    """
    if not path.is_file():
        raise ModelFileError(
            f"there is no model file at {path}",
            hint="the manifest names a modelFile that the archive does not hold; build it again",
        )
    name = path.stem
    known = sys.modules.get(name)
    if known is not None:
        if _is_from(known, path):
            return known
        # Taking the name would break later importers of the other module, perhaps one of the standard library.
        name = f"{name}_{zlib.crc32(str(path).encode()):08x}"
        if name in sys.modules:
            return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModelFileError(f"{path} is not a Python file", hint="its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before running it, as the import statement does: pickle and dataclasses look there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ModelFileError(
            f"importing {path} failed: {type(error).__name__}: {error}", hint=_advice(error)
        ) from error
    return module


def _is_from(module: ModuleType, path: Path) -> bool:
    file = getattr(module, "__file__", None)
    return file is not None and Path(file).exists() and Path(file).samefile(path)


def _advice(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return (
            f"add the file of {error.name!r} to the archive with --extra-files, "
            "or the package that holds it to its requirements file"
        )
    return "the traceback above this error shows the line"
