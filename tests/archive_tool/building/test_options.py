"""One set of options, whatever gives them."""

import inspect
from dataclasses import MISSING, FrozenInstanceError, fields
from pathlib import Path

import pytest

import archive_tool
from archive_tool.building import builder
from archive_tool.building.options import BuildOptions
from archive_tool.cli import build as command

FIELDS = {one.name: one for one in fields(BuildOptions)}


def test_the_function_takes_them_one_by_one(work, monkeypatch):
    parameters = dict(inspect.signature(archive_tool.build).parameters)
    assert parameters.keys() - FIELDS.keys() == {"progress", "before_publish"}
    assert FIELDS.keys() <= parameters.keys()
    for name, one in FIELDS.items():
        default = inspect.Parameter.empty if one.default is MISSING else one.default
        assert parameters[name].default == default, name
    taken = []
    monkeypatch.setattr(builder, "build_archive", lambda options, **more: taken.append(options))
    given = {name: object() for name in FIELDS}
    archive_tool.build(**given)
    assert vars(taken[0]) == given


def test_the_command_has_the_same():
    parameters = {one.name: one for one in command.build.params}
    assert parameters.keys() - FIELDS.keys() == {"project_file", "check", "quiet", "as_json"}
    assert FIELDS.keys() - parameters.keys() == {"archive_name", "record"}


def test_they_stay_as_they_are():
    with pytest.raises(FrozenInstanceError):
        BuildOptions(model_name="m", handler="h.py").force = True


@pytest.mark.parametrize(
    ("given", "found"), [(False, None), (True, Path()), ("a/b", Path("a/b")), (Path("a"), Path("a"))]
)
def test_the_folders_that_are_kept(given, found):
    assert BuildOptions(model_name="m", handler="h.py", keep_folders=given).inputs().folders_from == found


def test_an_empty_path_is_none(work):
    options = BuildOptions(model_name="m", handler=Path("h.py"), serialized_file="", model_file="model.py")
    inputs = options.inputs()
    assert (inputs.handler, inputs.serialized_file, inputs.model_file) == ("h.py", None, Path("model.py"))
    assert (inputs.version, inputs.runtime, inputs.extra_files) == ("1.0", "python", ())
