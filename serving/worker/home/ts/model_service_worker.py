"""What TorchServe's frontend executes for every worker; the work is done in the package `serving.worker`.

The package is loaded by its place, not by name: the interpreter may be one in which it is not installed (a model's own
virtual environment, `runtime: python3`), and nothing may be added to `sys.path`, where it could hide a user's module.
"""

import os
import sys


def _load_package() -> None:
    """Make `serving` importable, and keep this file's folder from hiding modules of the same names elsewhere."""
    here = os.path.dirname(os.path.realpath(__file__))
    sys.path[:] = [entry for entry in sys.path if entry != here and os.path.realpath(entry) != here]
    folder = os.path.dirname(os.path.dirname(os.path.dirname(here)))
    package = type(sys)("serving")
    package.__path__ = [folder]
    package.__file__ = os.path.join(folder, "__init__.py")
    sys.modules["serving"] = package


if __name__ == "__main__":
    _load_package()
    from serving.worker.starting import launch

    sys.exit(launch.main(sys.argv[1:]))
