"""The tree of errors is what its own docstring draws."""

import importlib
import re
import traceback

import pytest

from archive_tool import errors


def classes(base):
    for child in base.__subclasses__():
        if child.__module__ == errors.__name__:
            yield child
            yield from classes(child)


def test_each_class_has_the_exit_code_that_the_docstring_shows():
    drawn = dict(re.findall(r"(\w+Error)\s+(\d)\s", errors.__doc__))
    real = {cls.__name__: str(cls.exit_code) for cls in (errors.TorchmarError, *classes(errors.TorchmarError))}
    assert real == drawn


def test_each_class_is_below_the_one_that_the_docstring_shows():
    lines = re.findall(r"^ {4}([│├└─ ]*)(\w+Error) ", errors.__doc__, re.MULTILINE)
    above = []
    for branch, name in lines:
        del above[len(branch) // 4 :]
        if above:
            assert issubclass(getattr(errors, name), getattr(errors, above[-1]))
        above.append(name)
    assert len(lines) == len(list(classes(errors.TorchmarError))) + 1


def test_parts_stay_apart():
    error = errors.BuildError("what", where="there", hint="this")
    assert (error.message, error.where, error.hint) == ("what", "there", "this")


def test_the_text_has_all_parts_once():
    text = "what\n  at: there\n  hint: this"
    assert str(errors.BuildError("what", where="there", hint="this")) == text
    assert traceback.format_exception_only(errors.BuildError("what", where="there", hint="this")) == [
        f"archive_tool.errors.BuildError: {text}\n"
    ]
    assert str(errors.BuildError("there is nothing", where="there")) == "there is nothing"
    assert str(errors.BuildError("what")) == "what"


@pytest.mark.parametrize(
    "call",
    [
        lambda package, folder: package.build(model_name="m", handler=folder / "none.py", export_path=folder),
        lambda package, folder: package.open_archive(folder / "none.mar").__enter__(),
        lambda package, folder: package.sign(folder / "none.mar", folder / "none.pem"),
        lambda package, folder: package.publish(None, name="m", model_store=folder / "none"),
    ],
)
def test_what_the_python_interface_raises_says_what_to_do(call, tmp_path):
    with pytest.raises(errors.TorchmarError) as raised:
        call(importlib.import_module("archive_tool"), tmp_path)
    assert raised.value.where or raised.value.hint
    for part in (raised.value.message, *(text for _, text in raised.value.details())):
        assert part in str(raised.value)


def test_every_public_name_of_the_package_exists():
    package = importlib.import_module("archive_tool")
    assert all(getattr(package, name) is not None for name in package.__all__)
    assert set(package.__all__) <= set(dir(package))
