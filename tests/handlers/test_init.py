import subprocess
import sys

import pytest

import handlers


def test_importing_the_package_imports_no_torch():
    """What its handlers import is in test_stock_worker.py, where a process of its own does so anyway."""
    code = "import sys, handlers; assert not {'torch', 'torchvision', 'PIL', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", handlers.__all__)
def test_every_exported_name_exists(name):
    assert getattr(handlers, name).__name__ == name
    assert name in dir(handlers)


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = handlers.no_such_name
