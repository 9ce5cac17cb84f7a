"""The frontend runs this file for a model with ``useVenv``; the work is done by serving/worker/scripts/venv.py.

This folder must not become a package: it would hide the installed package ``ts``, which handlers import.
"""

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

HERE = Path(__file__).resolve().parent


def find_serving() -> None:
    """Load the package ``serving`` that this file lies in; the interpreter may know none, or another one.

    Raises:
        ImportError: the folder is not a package.
    """
    folder = HERE.parents[3]
    spec = spec_from_file_location("serving", folder / "__init__.py", submodule_search_locations=[str(folder)])
    if spec is None or spec.loader is None:
        raise ImportError(f"{folder} is no package")
    sys.modules["serving"] = module = module_from_spec(spec)
    spec.loader.exec_module(module)


if __name__ == "__main__":
    # Python puts a script's folder first; no import is meant to find anything here.
    sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != HERE]
    find_serving()
    sys.exit(import_module("serving.worker.scripts.venv").main())
