import subprocess
import sys
from pathlib import Path

import pytest

import handlers
from handlers import builtin


def test_it_imports_nothing():
    code = (
        "import sys, handlers.builtin; print(*(name for name in sys.modules if name.startswith(('handlers', 'torch'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) <= {"handlers", "handlers.builtin"}


@pytest.mark.parametrize(("name", "one"), builtin.BUILT_IN.items())
def test_each_is_the_servers_or_the_sdks(name, one):
    assert one.sdk is None or issubclass(getattr(handlers, one.sdk), handlers.BaseHandler)
    assert one.torchserve or one.sdk
    assert one.torchserve or not one.archiver
    assert (name in builtin.SDK_HANDLERS) is not (name in builtin.TORCHSERVE_HANDLERS)


def test_the_names_of_torchserve():
    import ts.torch_handler

    folder = Path(ts.torch_handler.__file__).parent
    for name in builtin.TORCHSERVE_HANDLERS:
        assert (folder / f"{name}.py").exists() or name == "dali_image_classifier", name
