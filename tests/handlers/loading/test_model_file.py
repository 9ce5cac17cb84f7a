import pickle
import sys
import textwrap

import pytest
from torch import nn

from handlers import ModelFileError
from handlers.loading.model_file import import_model_file, load_model_class

NET = """
    from torch import nn

    class {name}(nn.Module):
        pass
"""


@pytest.fixture
def write(tmp_path):
    known = set(sys.modules)

    def make(source, name="net_under_test.py", folder="."):
        (tmp_path / folder).mkdir(exist_ok=True)
        path = tmp_path / folder / name
        path.write_text(textwrap.dedent(source))
        return path

    yield make
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def test_the_one_module_is_found_and_can_be_pickled(write):
    found = load_model_class(write(NET.format(name="Net")))
    assert issubclass(found, nn.Module)
    assert found.__module__ == "net_under_test"
    assert type(pickle.loads(pickle.dumps(found()))) is found


def test_helper_classes_may_stand_beside_it(write):
    source = NET.format(name="Net") + "    class Config:\n        pass\n    from torch.nn import Linear\n"
    assert load_model_class(write(source)).__name__ == "Net"


def test_an_alias_is_no_second_class(write):
    assert load_model_class(write(NET.format(name="Net") + "    Model = Net\n")).__name__ == "Net"


def test_several_modules_are_named_unless_all_names_one(write):
    both = NET.format(name="Block") + NET.format(name="Net")
    with pytest.raises(ModelFileError, match=r"2 subclasses of torch.nn.Module: Block, Net[^$]*--extra-files"):
        load_model_class(write(both))
    assert load_model_class(write(both + "    __all__ = ['Net']\n", "chosen.py")).__name__ == "Net"


def test_no_module(write):
    with pytest.raises(ModelFileError, match=r"defines no subclass of torch\.nn\.Module"):
        load_model_class(write("from torch.nn import Linear\nclass Helper: pass\n"))


def test_a_missing_file(tmp_path):
    with pytest.raises(ModelFileError, match="there is no model file"):
        load_model_class(tmp_path / "none.py")


@pytest.mark.parametrize(
    ("source", "cause", "advice"),
    [
        ("import no_such_package", ModuleNotFoundError, "--extra-files"),
        ("def f(:", SyntaxError, "traceback"),
        ("1 / 0", ZeroDivisionError, "traceback"),
    ],
)
def test_a_broken_file_keeps_its_cause_and_leaves_nothing_behind(write, source, cause, advice):
    with pytest.raises(ModelFileError, match=advice) as caught:
        load_model_class(write(source))
    assert isinstance(caught.value.__cause__, cause)
    assert "net_under_test" not in sys.modules


def test_a_file_that_was_imported_before_is_not_run_again(write):
    path = write(NET.format(name="Net"))
    assert import_model_file(path) is import_model_file(path)
    assert load_model_class(path) is sys.modules["net_under_test"].Net


def test_a_file_named_as_another_module_takes_nobodys_name(write):
    import json

    path = write(NET.format(name="Net"), "json.py")
    found = load_model_class(path)
    assert sys.modules["json"] is json
    assert sys.modules[found.__module__].Net is found
    assert load_model_class(path) is found
    assert type(pickle.loads(pickle.dumps(found()))) is found
