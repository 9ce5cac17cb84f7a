"""State dicts beside the classes of model files, by the syntax tree alone."""

import ast

import pytest
import torch
from torch import nn

from archive_tool.analysis.state_dict_match import expect, module_classes, problems

HEAD = "import torch\nimport torch.nn as nn\nfrom torch.nn import Linear as L\nimport torch.nn.functional as F\n"


def source(*lines, base="nn.Module", head=HEAD, extra=""):
    body = "".join(f"        {line}\n" for line in lines)
    return f"{head}class Net({base}):\n    def __init__(self, n=3):\n        super().__init__()\n{body}{extra}"


def tensors(*lines, **options):
    found = expect(ast.parse(source(*lines, **options)))
    return found and found.tensors


def told(text, keys):
    return list(problems(ast.parse(text), keys))


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("self.a = nn.Linear(2, 3)", "nn.Linear(2, 3)"),
        ("self.a = torch.nn.Linear(in_features=2, out_features=3)", "nn.Linear(2, 3)"),
        ("self.a = L(2, 3, True)", "nn.Linear(2, 3)"),
        ("self.a = nn.Linear(2 * 4 * 2, 3)", "nn.Linear(16, 3)"),
        ("self.a = nn.Linear(2, 3, bias=True, device=None)", "nn.Linear(2, 3)"),
        ("self.a = nn.Linear(2, 3, bias=False)", "nn.Linear(2, 3, bias=False)"),
        ("self.a = nn.Conv2d(4, 6, 3)", "nn.Conv2d(4, 6, 3)"),
        ("self.a = nn.Conv2d(4, 6, (3, 5), stride=2, groups=2)", "nn.Conv2d(4, 6, (3, 5), groups=2)"),
        ("self.a = nn.Conv1d(4, 6, kernel_size=3, bias=False)", "nn.Conv1d(4, 6, 3, bias=False)"),
        ("self.a = nn.Conv3d(4, 6, 3)", "nn.Conv3d(4, 6, 3)"),
        ("self.a = nn.BatchNorm2d(5)", "nn.BatchNorm2d(5)"),
        ("self.a = nn.BatchNorm1d(5, eps=1e-3)", "nn.BatchNorm1d(5)"),
        ("self.a = nn.Embedding(10, 4)", "nn.Embedding(10, 4)"),
        ("self.a = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 4)))",
         "nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 4)))"),
    ],
)  # fmt: skip
def test_shapes_are_torchs(line, names):
    """What is expected of a layer is what the layer has."""
    layer = eval(names)
    real = {f"a.{key}": tuple(value.shape) for key, value in layer.state_dict().items()}
    found = tensors(line)
    assert found
    assert all(real[key] == shape for key, shape in found.items())
    # The counter of a norm is left out: old checkpoints lack it.
    assert {key for key in real if not key.endswith("num_batches_tracked")} == set(found)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("self.a = nn.Linear(n, 3)", {"a.weight": None, "a.bias": (3,)}),
        ("self.a = nn.Linear(2, 3, bias=n)", {"a.weight": (3, 2)}),
        ("self.a = nn.Conv2d(4, 6, n)", {"a.weight": None, "a.bias": (6,)}),
        ("self.a = nn.Conv2d(4, 6, (3, n))", {"a.weight": None, "a.bias": (6,)}),
        ("self.a = nn.Conv2d(4, 6, 3, groups=n)", {"a.weight": None, "a.bias": (6,)}),
        ("self.a = nn.Conv2d(4, 6, (3,))", {"a.weight": None, "a.bias": (6,)}),
        ("self.a = nn.BatchNorm2d(5, affine=False)", {}),
        ("self.a = nn.BatchNorm2d(5, 1e-5)", {}),
        ("self.a = nn.Linear(*sizes)", {}),
        ("self.a = nn.Linear(2, 3, **options)", {}),
        ("self.a = nn.Sequential(*layers)", {}),
        ("self.a = nn.Sequential(OrderedDict(a=nn.Linear(1, 2)))", {}),
        ("self.a = weight_norm(nn.Linear(2, 3))", {}),
        ("self.a = F.Linear(2, 3)", {}),
        ("self.a = Linear(2, 3)", {}),
        ("self.a = nn.Linear(True, 3)", {"a.weight": None, "a.bias": (3,)}),
        ("self.a = self.b = nn.Linear(2, 3)", {}),
        ("a = nn.Linear(2, 3)", {}),
    ],
)
def test_what_is_not_known_is_left_open(line, expected):
    assert tensors(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        "self.a = None",
        "if n: self.a = None",
        "del self.a",
        "weight_norm(self.a)",
        "self.a.weight = nn.Parameter(torch.zeros(1))",
        "del self.a.bias",
        "self.a[0] = nn.Identity()",
        "layer = self.a",
        "prune(self)",
        "self.apply(f, self)",
        "for layer in self.modules(): layer.bias = None",
        "self.__dict__.update(n)",
        "self.register_parameter('a', None)",
    ],
)
def test_layers_that_may_change(line):
    assert tensors("self.a = nn.Linear(2, 3)", line) == {}


@pytest.mark.parametrize("line", ["nn.init.ones_(self.a.weight)", "x = isinstance(self, Net)", "self.b = self.a(n)"])
def test_layers_that_stay(line):
    assert set(tensors("self.a = nn.Linear(2, 3)", line)) == {"a.weight", "a.bias"}


@pytest.mark.parametrize(
    "text",
    [
        source("self.a = nn.Linear(2, 3)", base="Base"),
        source("self.a = nn.Linear(2, 3)", base="nn.Module, Mixin"),
        source("self.a = nn.Linear(2, 3)", base="nn.Module, metaclass=M"),
        source("self.a = nn.Linear(2, 3)", head=HEAD + "@decorated\n"),
        source("self.a = nn.Linear(2, 3)") + "class Other(nn.Module): pass\n",
        source("if n: return", "self.a = nn.Linear(2, 3)"),
        source("self.a = nn.Linear(2, 3)", head="import mine as nn\n"),
        source("self.a = nn.Linear(2, 3)", head="import torch.nn as nn\nnn = mine\n"),
        source("self.a = nn.Linear(2, 3)", head="from torch import nn\ndef nn(): pass\n"),
        source("self.a = nn.Linear(2, 3)", head="from torch import nn\ndef f(nn): pass\n"),
        HEAD + "class Net(nn.Module):\n    pass\n",
    ],
)
def test_classes_of_which_nothing_is_known(text):
    assert expect(ast.parse(text)) is None


GOOD = source("self.a = nn.Linear(2, 3)", "self.b = nn.Linear(3, 4)", "self.act = nn.ReLU()")
KEYS = {"a.weight": (3, 2), "a.bias": (3,), "b.weight": (4, 3), "b.bias": (4,)}
LINE = GOOD[: GOOD.index("class Net")].count("\n") + 1


def test_a_state_dict_that_fits():
    assert told(GOOD, KEYS) == []
    assert told(GOOD, {}) == []
    assert told("class Net: pass", KEYS) == []


def test_missing_tensors():
    keys = {key: KEYS[key] for key in ("a.weight", "b.weight")}
    assert told(GOOD, keys) == [(LINE, "the state dict lacks a.bias, b.bias of Net", None)]


def test_other_shapes():
    ((line, message, _),) = told(GOOD, KEYS | {"a.weight": (3, 9)})
    assert (line, message) == (
        LINE,
        "the state dict does not fit Net: a.weight is [3, 9] there and [3, 2] in the class",
    )


def test_tensors_that_the_class_does_not_have():
    ((_, message, _),) = told(GOOD, KEYS | {"c.weight": (1,), "d": (), "e": (), "f": ()})
    assert message == "the state dict has c.weight, d, e and 1 more, which Net does not have"


@pytest.mark.parametrize(
    "line",
    [
        "self.c = make()",
        "setattr(self, name, 1)",
        "self.add_module(f'c{n}', layer)",
        "self.register_buffer('c', n)",
        "self.__dict__['c'] = 1",
        "helper(self)",
    ],
)
def test_tensors_that_the_class_may_have(line):
    text = source("self.a = nn.Linear(2, 3)", "self.b = nn.Linear(3, 4)", line)
    assert told(text, KEYS | {"c.weight": (1,)}) == []


def test_attributes_of_other_methods_count():
    text = source("self.a = nn.Linear(2, 3)", extra="    def add(self):\n        self.c = 1\n")
    assert told(text, {"a.weight": (3, 2), "a.bias": (3,), "c": ()}) == []


@pytest.mark.parametrize("prefix", ["module", "model", "_orig_mod", "module._orig_mod"])
def test_a_prefix_of_all_keys_is_none_of_the_models_problems(prefix):
    assert told(GOOD, {f"{prefix}.{key}": shape for key, shape in KEYS.items()}) == []


@pytest.mark.parametrize(
    ("prefix", "hint"),
    [
        ("module", "its keys begin with 'module', the mark of torch.nn.DataParallel or DistributedDataParallel"),
        ("_orig_mod", "its keys begin with '_orig_mod', the mark of torch.compile"),
        ("state_dict", "its keys begin with 'state_dict': save that part alone, checkpoint['state_dict']"),
    ],
)
def test_wrapped_weights(prefix, hint):
    keys = {f"{prefix}.{key}": shape for key, shape in KEYS.items()} | {"epoch": ()}
    ((line, message, advice),) = told(GOOD, keys)
    assert (line, message) == (LINE, "none of the tensors of Net is in the state dict")
    assert advice.startswith(hint)


def test_the_weights_of_another_model():
    ((_, message, advice),) = told(GOOD, {"x.weight": (1,)})
    assert message == "none of the tensors of Net is in the state dict"
    assert advice == "are these the weights of another model?"


def test_classes_of_modules():
    tree = ast.parse(
        HEAD + "class A(nn.Module): pass\nclass B(A): pass\nclass C(torch.nn.Module): pass\nclass D: pass\n"
    )
    assert [node.name for node in module_classes(tree)] == ["A", "C"]


def test_the_examples_model():
    import inspect

    from model_defs import mnist

    state = mnist.MNISTNet().state_dict()
    tree = ast.parse(inspect.getsource(mnist))
    keys = {key: tuple(value.shape) for key, value in state.items()}
    assert list(problems(tree, keys)) == []
    assert set(expect(tree).tensors) == set(keys)
    assert isinstance(state["conv1.weight"], torch.Tensor)
    assert nn.Linear is not None
