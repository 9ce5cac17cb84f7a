"""The user's code that goes into an archive, and the code that is refused."""

import functools
import importlib.machinery
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from torch import nn

from archive_tool.errors import BuildError
from archive_tool.publishing import source
from archive_tool.publishing.source import take

ROOT = Path(__file__).resolve().parents[3]
NET = """
    import torch
    from torch import nn

    class Net(nn.Module):
        pass

    def create_net():
        return Net()
"""


def test_a_class_and_a_function_of_one_file(project):
    nets = project({"some_nets.py": NET}, "some_nets")
    for given, name in ((nets.Net, "Net"), (nets.create_net, "create_net")):
        taken = take(given)
        assert (taken.module, taken.name) == ("some_nets", name)
        assert {path: text.decode() for path, text in taken.files.items()} == {"some_nets.py": textwrap.dedent(NET)}
        assert taken.packages == {"torch"}


def test_imports_are_followed_in_every_form(project):
    files = {
        "entry.py": """
            import json, one.inner as alias
            from two import value
            from pack import sub, thing
            from pack.deep import *

            def create():
                import three
                try:
                    import no_such_module
                except ImportError:
                    pass
        """,
        "one/__init__.py": "import four",
        "one/inner.py": "",
        "one/unused.py": "",
        "two.py": "value = 1\nimport numpy.linalg\n",
        "three.py": "",
        "four.py": "import entry",
        "pack/__init__.py": "from . import relative\nthing = 1\n",
        "pack/relative.py": "from .sub import x\nfrom .cousin import y\n",
        "pack/cousin.py": "y = 1",
        "pack/sub.py": "x = 1",
        "pack/deep/__init__.py": "from .. import uncle",
        "pack/uncle.py": "",
        "unused.py": "",
    }
    taken = take(project(files, "entry").create)
    unused = {"one/unused.py", "unused.py"}
    assert set(taken.files) == set(files) - unused
    assert taken.packages == {"numpy"}


def test_imports_for_type_checkers_are_not_followed(project):
    files = {
        "entry.py": """
            import typing
            from typing import TYPE_CHECKING
            if TYPE_CHECKING:
                import for_types
            if typing.TYPE_CHECKING:
                import for_types
            else:
                import for_real
            def create(): pass
        """,
        "for_types.py": "",
        "for_real.py": "",
    }
    assert set(take(project(files, "entry").create).files) == {"entry.py", "for_real.py"}


def test_a_namespace_package_has_no_file_of_its_own(project):
    files = {"entry.py": "import space.inner\ndef create(): pass\n", "space/inner.py": ""}
    assert set(take(project(files, "entry").create).files) == {"entry.py", "space/inner.py"}


def test_our_own_packages_stay_out(project):
    text = "import archive_tool, handlers.base, serving\ndef create(): pass\n"
    taken = take(project({"entry.py": text}, "entry").create)
    assert set(taken.files) == {"entry.py"}
    assert not taken.packages


def test_a_users_package_with_a_name_of_ours_is_the_users(project, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "serving"]:
        monkeypatch.delitem(sys.modules, name)
    files = {"entry.py": "import serving.tea\ndef create(): pass\n", "serving/__init__.py": "", "serving/tea.py": ""}
    assert set(take(project(files, "entry").create).files) == set(files)


def test_a_class_of_an_installed_package_is_imported_from_there():
    taken = take(nn.Linear)
    assert (taken.module, taken.name, taken.files) == ("torch.nn.modules.linear", "Linear", {})
    assert taken.packages == {"torch"}
    assert take(torch._C.Generator).packages == {"torch"}


def test_a_class_inside_a_class(project):
    nets = project({"some_nets.py": "class Outer:\n    class Net:\n        pass\n"}, "some_nets")
    assert take(nets.Outer.Net).name == "Outer.Net"


def test_a_decorated_function(project):
    text = """
        import functools
        def twice(function):
            @functools.wraps(function)
            def wrapper():
                return function()
            return wrapper

        @twice
        def create(): pass
    """
    assert take(project({"entry.py": text}, "entry").create).name == "create"


class Local:
    def method(self):
        pass


def make():
    class Inner(nn.Module):
        pass

    def inner():
        pass

    return Inner, inner


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (lambda: None, "a lambda cannot be taken along"),
        (make()[0], "make.Inner is defined inside a function"),
        (make()[1], "make.inner is defined inside a function"),
        (functools.partial(make), "the source is partial, and neither a class nor a function"),
        (nn.Linear(1, 1), "the source is Linear, and neither a class nor a function"),
        (Local().method, "is a method of an object"),
        (len, "len is built in"),
    ],
)
def test_what_cannot_be_imported_elsewhere(given, reason):
    with pytest.raises(BuildError, match=reason) as caught:
        take(given)
    assert caught.value.hint


def test_a_name_that_means_something_else(project):
    module = project({"entry.py": "def create(): return 1\nold = create\ndef create(): return 2\n"}, "entry")
    with pytest.raises(BuildError, match=r"entry\.create is not the class or function that was given"):
        take(module.old)


def test_a_relative_import_without_a_package(project):
    module = project({"entry.py": "def create(): from .other import x\n"}, "entry")
    with pytest.raises(BuildError, match="no package around it") as caught:
        take(module.create)
    assert caught.value.where.endswith("entry.py:1")


def test_a_compiled_module_of_the_users(project, monkeypatch):
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    files = {"entry.py": "def create():\n    import fast_part\n", f"fast_part{suffix}": ""}
    with pytest.raises(BuildError, match=r"create imports fast_part, which is compiled"):
        take(project(files, "entry").create)


def test_a_function_of_a_compiled_module(monkeypatch, tmp_path):
    suffix = importlib.machinery.EXTENSION_SUFFIXES[0]
    module = type(sys)("fast_part")
    module.__file__ = str(tmp_path / f"fast_part{suffix}")
    module.create = type("create", (), {"__module__": "fast_part"})
    monkeypatch.setitem(sys.modules, "fast_part", module)
    with pytest.raises(BuildError, match="create is in a C extension"):
        take(module.create)


def run(*arguments, text=None, cwd=None):
    return subprocess.run(
        [sys.executable, *arguments], input=text, capture_output=True, text=True, cwd=cwd, check=True
    ).stdout


TAKE = f"""
import sys
sys.path.append({str(ROOT)!r})
from archive_tool.errors import BuildError
from archive_tool.publishing.source import take
try:
    taken = take(create)
    print(taken.module, taken.name, sorted(taken.files), sorted(taken.packages))
    for text in taken.files.values():
        print(text.decode())
except BuildError as error:
    print(error.message, '|', error.hint)
"""


def test_what_is_typed_into_a_session_has_no_file():
    said = run("-", text="def create(): pass\n" + TAKE)
    assert said.startswith("create was defined in a notebook or an interactive session")
    assert "write it to a file of its own" in said


def test_a_cell_of_a_notebook_has_no_file(monkeypatch):
    module = type(sys)("__main__")
    namespace = vars(module)
    exec(compile("def create(): pass\nclass Net: pass\n", "/tmp/ipykernel_1/2.py", "exec"), namespace)
    monkeypatch.setitem(sys.modules, "__main__", module)
    for given in (module.create, module.Net):
        with pytest.raises(BuildError, match="notebook or an interactive session"):
            take(given)


SCRIPT = '''"""Trains."""
from __future__ import annotations
import sys
import collections, math
import base64 as nn

WIDTH = 3
lr = print("training")

def helper():
    return WIDTH

@staticmethod
def unused():
    pass

class Net:
    def __init__(self):
        lr = helper()
        self.layer = nn.b64encode(lr)

def create() -> Net:
    return Net()

if True:
    SPLIT = math.pi
'''


def test_of_a_script_only_what_is_needed_is_taken(tmp_path):
    (tmp_path / "my-train.py").write_text(SCRIPT + TAKE)
    said = run("my-train.py", cwd=tmp_path)
    first, _, rest = said.partition("training\n")[2].partition("\n")
    assert first == "my_train create ['my_train.py'] []"
    assert [line for line in rest.splitlines() if line and not line.startswith(" ")] == [
        "from __future__ import annotations",
        "import base64 as nn",
        "WIDTH = 3",
        "def helper():",
        "class Net:",
        "def create() -> Net:",
    ]


def test_a_script_that_has_gone_to_another_folder(tmp_path):
    (tmp_path / "train.py").write_text("import os\ndef create(): pass\nos.chdir('/')\n" + TAKE)
    assert run("train.py", cwd=tmp_path).startswith("train create ['train.py'] []")


def test_a_module_that_was_run_is_taken_under_its_own_name(tmp_path):
    (tmp_path / "pack").mkdir()
    (tmp_path / "pack" / "__init__.py").touch()
    (tmp_path / "pack" / "parts.py").write_text("x = 1\n")
    (tmp_path / "pack" / "train.py").write_text("from .parts import x\ndef create(): return x\n" + TAKE)
    said = run("-m", "pack.train", cwd=tmp_path)
    assert said.splitlines()[0] == "pack.train create ['pack/__init__.py', 'pack/parts.py', 'pack/train.py'] []"


def test_a_file_that_was_changed_meanwhile(tmp_path):
    (tmp_path / "train.py").write_text(
        "def create(): pass\nfrom pathlib import Path\nPath(__file__).write_text('')\n" + TAKE
    )
    assert run("train.py", cwd=tmp_path).startswith("create is not in the file as it is now")


def test_what_is_installed():
    assert source._is_installed(Path(torch.__file__))
    assert source._is_installed(Path(subprocess.__file__))
    assert not source._is_installed(ROOT / "model_defs" / "mnist.py")
