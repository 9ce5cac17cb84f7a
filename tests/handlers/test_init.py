import ast
import subprocess
import sys
from pathlib import Path

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


def test_type_checkers_and_editors_are_told_of_the_same_names():
    tree = ast.parse(Path(handlers.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    told = {alias.asname: node.module for node in block.body for alias in node.names}
    assert told == {name: f"handlers.{home}" for name, home in handlers._HOMES.items()}


def test_another_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = handlers.no_such_name
