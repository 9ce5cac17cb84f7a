"""The tree of errors is what its own docstring draws."""

import importlib
import re

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
    assert (str(error), error.message, error.where, error.hint) == ("what", "what", "there", "this")


def test_every_public_name_of_the_package_exists():
    package = importlib.import_module("archive_tool")
    assert all(getattr(package, name) is not None for name in package.__all__)
    assert set(package.__all__) <= set(dir(package))
