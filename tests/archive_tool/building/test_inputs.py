"""References to handlers, and lists of extra files."""

from pathlib import Path

import pytest

from archive_tool.building.inputs import Inputs, split_extra_files


@pytest.mark.parametrize(
    ("reference", "file", "function"),
    [
        ("h", "h.py", None),
        ("h.py", "h.py", None),
        ("h:run", "h.py", "run"),
        ("h.py:run", "h.py", "run"),
        ("some/dir/h", "some/dir/h.py", None),
        ("some/dir/h.py", "some/dir/h.py", None),
        ("some/dir/h:run", "some/dir/h.py", "run"),
        ("some/dir/h.py:run", "some/dir/h.py", "run"),
        ("a.python/h:run", "a.python/h.py", "run"),
        ("a:b/h.py", "a:b/h.py", None),
    ],
)
def test_handler_references(work, reference, file, function):
    inputs = Inputs("m", reference)
    assert inputs.handler_file == Path(file)
    assert inputs.handler_function == function


def test_a_file_with_py_in_its_name_is_taken_as_it_is(work):
    Path("h.pyx").touch()
    assert Inputs("m", "h.pyx").handler_file == Path("h.pyx")


def test_built_in_handlers(work):
    assert Inputs("m", "image_classifier").handler_file is None
    Path("image_classifier.py").touch()
    assert Inputs("m", "image_classifier").handler_file is None
    assert Inputs("m", "densenet_handler").handler_file is None
    Path("densenet_handler.py").touch()
    assert Inputs("m", "densenet_handler").handler_file == Path("densenet_handler.py")


def test_handlers_of_the_sdk(work):
    assert Inputs("m", "tensor_handler").sdk_handler == "TensorHandler"
    assert Inputs("m", "tensor_handler").handler_file is None
    assert Inputs("m", "image_classifier").sdk_handler is None
    assert Inputs("m", "h.py").sdk_handler is None
    Path("tensor_handler.py").touch()
    assert Inputs("m", "tensor_handler").sdk_handler is None
    assert Inputs("m", "tensor_handler").handler_file == Path("tensor_handler.py")


def test_libraries_for_the_cpp_backend(monkeypatch):
    assert Inputs("m", "TorchScriptHandler", runtime="LSP").handler_file is None
    monkeypatch.setattr("platform.system", lambda: "Linux")
    assert Inputs("m", "lib/h:H", runtime="LSP").handler_file == Path("lib/h.so")
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert Inputs("m", "lib/h", runtime="LSP").handler_file == Path("lib/h.dylib")
    assert Inputs("m", "image_classifier", runtime="LSP").handler_file == Path("image_classifier.dylib")


def test_extra_files(work):
    Path("a,b.txt").touch()
    assert split_extra_files(None) == ()
    assert split_extra_files("") == ()
    assert split_extra_files("a, b ,,c,") == ("a", "b", "c")
    assert split_extra_files("a,b.txt") == ("a,b.txt",)
    assert split_extra_files(Path("x,y")) == ("x,y",)
    assert split_extra_files(["a,b", Path("c"), "d"]) == ("a", "b", "c", "d")
