"""The part of a handler's file that TorchServe will call."""

import ast

import pytest

from archive_tool.analysis.entry_point import Kind, find


@pytest.mark.parametrize(
    ("text", "function", "kind", "name", "line"),
    [
        ("def handle(data, context): pass\nclass A: pass\nclass B: pass\n", None, Kind.FUNCTION, "handle", 1),
        ("x = 1\ndef run(data, context): pass\n", "run", Kind.FUNCTION, "run", 2),
        ("from a import handle\n", "", Kind.FUNCTION, "handle", 1),
        ("from a import *\nhandle = 1\n", None, Kind.FUNCTION, "handle", 2),
        ("\nclass A: pass\n", None, Kind.CLASS, "A", 2),
        ("class A: pass\n", "run", Kind.CLASS, "A", 1),
        ("x = 1\n", None, Kind.NOTHING, None, None),
        ("class A: pass\nclass B: pass\n", None, Kind.SEVERAL_CLASSES, None, None),
        ("class A: pass\nif x:\n    class B: pass\n", None, Kind.UNKNOWN, None, None),
        ("from a import *\nclass A: pass\n", None, Kind.UNKNOWN, None, None),
        ("from a import *\n", None, Kind.UNKNOWN, None, None),
    ],
)
def test_the_rule_of_the_model_loader(text, function, kind, name, line):
    found = find(ast.parse(text), function)
    assert (found.kind, found.name, found.line) == (kind, name, line)
    assert found.function == (function or "handle")
