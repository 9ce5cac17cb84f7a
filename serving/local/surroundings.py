"""The worker's surroundings for this process, for a while: folder, module path, arguments, environment."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from serving.worker.starting import torch_imports

# As the frontend sets them.
_ENVIRONMENT = {"TS_DECODE_INPUT_REQUEST": "true", "TS_IPEX_ENABLE": "false", "TS_IPEX_GPU_ENABLE": "false"}


@contextmanager
def surroundings(folder: Path, module_folder: str = "") -> Iterator[None]:
    """Give this process a worker's cwd, sys.path, argv and environment. Standard input and output stay as they are.

    Args:
        folder: of the model, which becomes the current one.
        module_folder: a further folder of modules, as the frontend takes it from the handler's name.
    """
    before = Path.cwd()
    path, arguments, modules = list(sys.path), list(sys.argv), dict(sys.modules)
    environment, no_bytecode = dict(os.environ), sys.dont_write_bytecode
    try:
        os.chdir(folder)
        sys.path[:0] = [entry for entry in (module_folder, str(folder)) if entry]
        sys.argv[1:] = []  # a handler that parses arguments must not see ours
        os.environ.update(_ENVIRONMENT)
        torch_imports.prepare()
        sys.dont_write_bytecode = True  # a folder model is served where it is: it stays as it was
        yield
    finally:
        os.chdir(before)
        sys.path[:], sys.argv[:], sys.dont_write_bytecode = path, arguments, no_bytecode
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)
        for name in [name for name, module in sys.modules.items() if name not in modules and _is_of(module, folder)]:
            del sys.modules[name]
        sys.modules.update(modules)  # the loader makes way for modules of the archive with the names of ours


def _is_of(module: object, folder: Path) -> bool:
    file = getattr(module, "__file__", None)
    return isinstance(file, str) and Path(file).is_relative_to(folder)
