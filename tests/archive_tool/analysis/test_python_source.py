"""The names that a module binds, by its syntax tree."""

import pytest

from archive_tool.analysis import python_source


def names(text):
    import ast

    return python_source.names(ast.parse(text))


@pytest.mark.parametrize(
    "text",
    [
        "def handle(): pass",
        "async def handle(): pass",
        "handle = 1",
        "a, (handle, b) = x",
        "handle: int = 1",
        "from a import handle",
        "from a import b as handle",
        "import handle.sub",
        "if x:\n    def handle(): pass",
        "try:\n    pass\nexcept E:\n    handle = None\nelse:\n    pass",
        "with x as handle: pass",
        "for handle in x: pass",
        "(handle := 3)",
        "class handle: pass",
        "match x:\n    case 1:\n        handle = 1",
    ],
)
def test_bound(text):
    assert "handle" in names(text).bound


@pytest.mark.parametrize(
    "text",
    ["def f():\n    handle = 1", "class C:\n    def handle(self): pass", "x.handle = 1", "handle", "f(handle=1)"],
)
def test_not_bound(text):
    assert "handle" not in names(text).bound


@pytest.mark.parametrize(
    ("text", "all_classes", "certain"),
    [
        ("class A: pass\nclass B: pass", ["A", "B"], ["A", "B"]),
        ("class A: pass\nif x:\n    class B: pass", ["A", "B"], ["A"]),
        ("class A: pass\ndel A", ["A"], []),
        ("class A: pass\nA = f(A)", ["A"], []),
        ("@register\nclass A: pass", ["A"], []),
        ("def f():\n    class A: pass", [], []),
    ],
)
def test_classes(text, all_classes, certain):
    found = names(text)
    assert [node.name for node in found.classes] == all_classes
    assert [node.name for node in found.certain_classes] == certain


@pytest.mark.parametrize(
    ("text", "dynamic"),
    [
        ("from a import *", True),
        ("globals()['handle'] = f", True),
        ("H = type('H', (), {})", True),
        ("P = collections.namedtuple('P', 'a b')", True),
        ("def __getattr__(name): pass", True),
        ("logger = logging.getLogger(__name__)", False),
        ("model.eval()", False),
        ("def f():\n    exec('x')", False),
    ],
)
def test_dynamic(text, dynamic):
    assert names(text).dynamic is dynamic


@pytest.mark.parametrize(
    ("text", "imports"),
    [
        ("import handlers", True),
        ("import handlers.base as b", True),
        ("from handlers import X", True),
        ("from handlers.base import X", True),
        ("def f():\n    import handlers", True),
        ("from . import handlers", False),
        ("from .handlers import X", False),
        ("import handlers2", False),
        ("from ts import handlers", False),
    ],
)
def test_imported_packages(text, imports):
    import ast

    assert ("handlers" in python_source.imported_packages(ast.parse(text))) is imports


@pytest.mark.parametrize(
    ("data", "line", "text"),
    [
        (b"x = 1\ndef f(:\n", 2, "def f(:"),
        (b"x = '\0'", None, ""),
        (b"# coding: nothing\n", None, ""),
        (b"\xff = 1", None, None),
        (b"(" * 5000, None, None),
    ],
)
def test_not_python(tmp_path, data, line, text):
    path = tmp_path / "x.py"
    path.write_bytes(data)
    with pytest.raises(python_source.SourceError) as caught:
        python_source.parse(path)
    if line:
        assert (caught.value.line, caught.value.text) == (line, text)


def test_warnings_of_the_parser_stay_quiet(tmp_path):
    path = tmp_path / "x.py"
    path.write_text("x = '\\d'\nassert (x, 'always')\n")
    python_source.parse(path)


def test_certain_imports():
    text = "from __future__ import annotations\nimport a, b.c as d\nfrom e.f import g\nfrom . import h\nimport a\n"
    text += "try:\n    import i\nexcept ImportError: pass\nif x:\n    import j\ndef f():\n    import k\n"
    tree = python_source.parse_bytes(text.encode(), "x.py")
    assert python_source.certain_imports(tree) == {"a": 2, "b.c": 2, "e.f": 3}


def test_imports_that_are_not_meant_to_fail():
    text = "import a\ndef f():\n    from b import c\nclass C:\n    async def g(self):\n        import d\n"
    text += (
        "try:\n    import e\nexcept ImportError: pass\nif x:\n    import f\nwith x:\n    import g\nfrom h import i\n"
    )
    found = python_source.unguarded_imports(python_source.parse_bytes(text.encode(), "x.py"))
    assert [(statement.lineno, sure) for statement, sure in found] == [(1, True), (3, False), (6, False), (14, True)]


def test_lines_and_counts_of_names():
    tree = python_source.parse_bytes(b"a = 1\ndef b(): pass\nif x:\n    a = 2\n", "x.py")
    assert (python_source.line_of(tree, "a"), python_source.line_of(tree, "b")) == (4, 2)
    assert python_source.line_of(tree, "c") is None
    assert [python_source.binding_count(tree, name) for name in "abc"] == [2, 1, 0]


CELLS = """
import old as used
WIDTH = 1
class Base: pass
def helper(): return 1
if fast:
    def helper(): return 2
class Net(Base):
    x = [WIDTH for _ in "a"]
    def f(self): return helper() + LATER
    import used
class Base: pass
LATER = 1
WIDTH = 2
LATER = 2
LATER += 1
class Net(Net): pass
from __future__ import annotations
"""


def test_the_statements_that_a_name_needs():
    import ast

    assert (
        python_source.statements_for(ast.parse(CELLS), CELLS, "Net")
        == [
            "from __future__ import annotations",
            "WIDTH = 1",  # the class body has run with it
            "class Base: pass",
            "def helper(): return 1",
            "if fast:\n    def helper(): return 2",  # perhaps
            CELLS[CELLS.index("class Net(Base)") : CELLS.index("class Base: pass\nLATER") - 1],
            "LATER = 2",  # a function sees the last one
            "LATER += 1",
            "class Net(Net): pass",
        ]
    )
    assert python_source.statements_for(ast.parse(CELLS), CELLS, "nothing") == []


IMPORTS = "import torch\nimport torch.nn as nn\nfrom torch.nn import Module as M\n"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("class A(nn.Module): pass\nclass B(A): pass\nclass C(torch.nn.Module): pass\nclass D: pass", ["A", "C"]),
        ("class A(Mixin, M): pass", ["A"]),
        ("class A(F.Module): pass\nclass B(Module): pass", []),
        ("nn = mine\nclass A(nn.Module): pass", []),
        ("def nn(): pass\nclass A(nn.Module): pass", []),
        ("def f(nn): pass\nclass A(nn.Module): pass", []),
        ("if x:\n    class A(nn.Module): pass", []),
    ],
)
def test_classes_that_surely_extend_another(text, names):
    import ast

    tree = ast.parse(f"{IMPORTS}{text}\n")
    assert [node.name for node in python_source.subclasses(tree, "torch.nn.Module")] == names
