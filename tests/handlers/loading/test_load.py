import importlib.util
import sys
import textwrap
import warnings
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from handlers import CheckpointMismatchError, LoadError, ModelFileError, UnsafeCheckpointError, UnsupportedFormatError
from handlers.loading import load
from handlers.loading.load import describe, load_eager, load_program
from tests.handlers.loading.nets import ALL, HEAD, MAPPED


@pytest.fixture
def write(tmp_path):
    """Write a model file and, beside it, the weights of one model of its class with unusual values."""
    known = set(sys.modules)
    count = 0

    def make(source, state=None):
        nonlocal count
        count += 1
        path = tmp_path / f"net{count}_under_test.py"
        path.write_text(HEAD + textwrap.dedent(source))
        weights = tmp_path / f"weights{count}.pt"
        if state is None:
            state = trained(ordinary(path)()).state_dict()
        torch.save(state, weights)
        return path, weights

    yield make
    for name in set(sys.modules) - known:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def ordinary(path: Path):
    """Import the class apart from the code under test."""
    spec = importlib.util.spec_from_file_location(f"reference_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    return module.Net


def trained(model: nn.Module) -> nn.Module:
    """Give every value a new one, as training does, buffers too."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return model


@torch.no_grad()
def assert_loaded_as_usual(path, weights, shape):
    """Check that the model gives exactly what it gives when its weights are copied into it, and has the same state."""
    loaded = load_eager(path, weights).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        usual = ordinary(path)()
        usual.load_state_dict(torch.load(weights, weights_only=True))
    usual.eval()
    inputs = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(loaded(inputs), usual(inputs))
    mine, other = loaded.state_dict(), usual.state_dict()
    assert mine.keys() == other.keys()
    for key, value in other.items():
        if isinstance(value, torch.Tensor):
            assert mine[key].dtype == value.dtype
            assert mine[key].stride() == value.stride()
            assert torch.equal(mine[key], value)
    assert [p.requires_grad for p in loaded.parameters()] == [p.requires_grad for p in usual.parameters()]
    return loaded


@pytest.fixture
def only_mapped(monkeypatch):
    """Make the ordinary way fail."""

    def refuse(*_):
        raise AssertionError("the model was built the ordinary way")

    monkeypatch.setattr(load, "_construct", refuse)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("name", ALL)
def test_every_kind_of_model_gives_what_the_ordinary_load_gives(write, name):
    source, shape = ALL[name]
    assert_loaded_as_usual(*write(source), shape)


@pytest.mark.parametrize("name", MAPPED)
def test_common_models_take_the_files_memory_as_it_is(write, only_mapped, name):
    load_eager(*write(MAPPED[name][0]))


def test_weights_are_mapped_and_the_file_is_never_written(write, only_mapped):
    path, weights = write(MAPPED["linear"][0])
    before = weights.read_bytes()
    model = load_eager(path, weights)
    if sys.platform == "linux":
        assert str(weights) in Path("/proc/self/maps").read_text()
    with torch.no_grad():
        model.weight.zero_()
    assert weights.read_bytes() == before


def test_a_class_that_was_imported_before_is_loaded_too(write):
    path, weights = write(MAPPED["linear"][0])
    first, second = load_eager(path, weights), load_eager(path, weights)
    assert type(first) is type(second)
    assert torch.equal(first.weight, second.weight)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_the_checkpoints_type_does_not_become_the_models(write, only_mapped, kind):
    source, shape = MAPPED["convolution and batch norm"]
    path, weights = write(source)
    state = torch.load(weights, weights_only=True)
    torch.save({key: value.to(kind) for key, value in state.items()}, weights)
    loaded = load_eager(path, weights).eval()
    usual = ordinary(path)()
    usual.load_state_dict(torch.load(weights, weights_only=True))
    inputs = torch.randn(shape)
    assert torch.equal(loaded(inputs), usual.eval()(inputs))
    assert loaded[0].weight.dtype == torch.float32


def test_strides_are_the_models_own(write):
    path, weights = write(MAPPED["linear"][0])
    state = torch.load(weights, weights_only=True)
    state["weight"] = state["weight"].t().contiguous().t()
    torch.save(state, weights)
    assert_loaded_as_usual(path, weights, (2, 4))


def test_memory_that_only_the_checkpoint_shares_is_parted(write):
    shared = torch.ones(4)
    source = """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.a, self.b = nn.Parameter(torch.zeros(4)), nn.Parameter(torch.zeros(4))
            def forward(self, x): return x * self.a + self.b
    """
    model = assert_loaded_as_usual(*write(source, {"a": shared, "b": shared}), (2, 4))
    with torch.no_grad():
        model.a.zero_()
    assert torch.equal(model.b, shared)


def test_tied_weights_stay_tied_and_the_last_value_wins(write):
    path, weights = write(MAPPED["tied weights"][0])
    state = torch.load(weights, weights_only=True)
    state["second.weight"] = state["first.weight"] + 1
    torch.save(state, weights)
    model = assert_loaded_as_usual(path, weights, (2, 4))
    assert model.first.weight is model.second.weight


TIED = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(5, 3)
        self.lm_head = nn.Linear(3, 5, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, x):
        return self.lm_head(self.wte(x))
"""


@pytest.mark.parametrize("prefix", ["", "model.", "module.", "_orig_mod.", "any.thing."])
@pytest.mark.parametrize("names", [("wte", "lm_head"), ("wte",), ("lm_head",)])
@pytest.mark.parametrize("mapped", [True, False])
def test_a_prefix_and_names_of_tied_weights_may_differ(write, only_mapped, monkeypatch, prefix, names, mapped):
    weight = torch.rand(5, 3)
    path, weights = write(TIED, {f"{prefix}{name}.weight": weight for name in names})
    if not mapped:
        monkeypatch.undo()
        monkeypatch.setattr(load, "_build_on_meta", lambda *_: None)
    model = load_eager(path, weights)
    assert torch.equal(model.wte.weight, weight)
    assert model.lm_head.weight is model.wte.weight


def test_a_prefix_before_other_shapes_leaves_the_shapes_to_be_told(write):
    path, weights = write(MAPPED["linear"][0], {"model.weight": torch.ones(3, 5), "model.bias": torch.ones(3)})
    with pytest.raises(CheckpointMismatchError, match=r"1 different shapes: weight: \(3, 5\)") as caught:
        load_eager(path, weights)
    assert "missing" not in str(caught.value)
    assert caught.value.__suppress_context__  # what torch says would be shown in its place


def test_safetensors_give_the_same_model(write, only_mapped):
    from safetensors.torch import save_file

    path, weights = write(MAPPED["convolution and batch norm"][0])
    state = torch.load(weights, weights_only=True)
    save_file(state, weights)
    loaded = load_eager(path, weights).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())


def test_the_legacy_format_gives_the_same_model(write):
    path, weights = write(MAPPED["linear"][0])
    torch.save(torch.load(weights, weights_only=True), weights, _use_new_zipfile_serialization=False)
    assert_loaded_as_usual(path, weights, (2, 4))


def test_weights_are_optional(write):
    path, _ = write("class Net(nn.Module):\n    def __init__(self): super().__init__(); self.a = nn.Linear(2, 2)")
    assert load_eager(path, None).a.weight.shape == (2, 2)


def test_a_mismatch_names_the_model_its_file_and_the_keys(write):
    path, weights = write(MAPPED["linear"][0], {"weight": torch.ones(3, 5), "other": torch.ones(1)})
    with pytest.raises(CheckpointMismatchError) as caught:
        load_eager(path, weights)
    text = str(caught.value)
    for part in ("Net of", path.name, weights.name, "missing keys: bias", "unexpected keys: other", "(3, 5)", "(3, 4)"):
        assert part in text


def test_code_runs_only_if_it_is_allowed(write):
    path, weights = write(MAPPED["linear"][0])
    state = torch.load(weights, weights_only=True)
    state["bias"] = nn.Parameter(state["bias"])
    state["weight"].note = Path("code")
    torch.save(state, weights)
    with pytest.raises(UnsafeCheckpointError):
        load_eager(path, weights)
    assert torch.equal(load_eager(path, weights, weights_only=False).weight, state["weight"])


def test_a_constructor_that_wants_arguments(write):
    path, weights = write(
        "class Net(nn.Module):\n    def __init__(self, size): super().__init__()", {"a": torch.ones(1)}
    )
    for given_weights in (weights, None):
        with pytest.raises(ModelFileError, match=r"TypeError[^$]*without arguments") as caught:
            load_eager(path, given_weights)
        assert isinstance(caught.value.__cause__, TypeError)


def test_running_out_of_memory_is_not_dressed_up(write):
    path, _ = write("class Net(nn.Module):\n    def __init__(self): raise MemoryError", {"a": torch.ones(1)})
    with pytest.raises(MemoryError):
        load_eager(path, None)


LAYERS = {
    "linear": "nn.Linear(6, 6)",
    "batch norm": "nn.BatchNorm1d(6)",
    "layer norm": "nn.LayerNorm(6)",
    "prelu": "nn.PReLU()",
    "deep": "nn.Sequential(nn.Linear(6, 3), nn.Tanh(), nn.Linear(3, 6))",
    "unsaved": "Unsaved()",
    "plain": "Plain()",
    "tied": "Tied()",
    "spectral": "torch.nn.utils.parametrizations.spectral_norm(nn.Linear(6, 6))",
}
LAYER_SOURCE = """
class Unsaved(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("places", torch.arange(6.0), persistent=False)
        self.register_buffer("saved", torch.ones(6))
    def forward(self, x): return x + self.places * self.saved
class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.scales = [torch.full((6,), 2.0)]
    def forward(self, x): return x * self.scales[0]
class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6, bias=False)
        self.b.weight = self.a.weight
    def forward(self, x): return self.b(self.a(x))
class Net(nn.Sequential):
    def __init__(self): super().__init__({layers})
__all__ = ["Net"]
"""


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(layers=st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=5))
def test_any_stack_of_layers_gives_what_the_ordinary_load_gives(write, layers):
    source = LAYER_SOURCE.format(layers=", ".join(LAYERS[name] for name in layers))
    assert_loaded_as_usual(*write(source), (3, 6))


def test_torchscript(tmp_path):
    module = torch.jit.script(nn.Linear(3, 2))
    module.save(str(tmp_path / "m.pt"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = load_program(tmp_path / "m.pt", torch.device("cpu"))
    inputs = torch.randn(4, 3)
    assert torch.equal(loaded(inputs), module(inputs))
    assert describe(loaded) == "Linear, 8 parameters (float32)"


def test_a_state_dict_without_a_model_file(tmp_path):
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "m.pt")
    with pytest.raises(UnsupportedFormatError, match="--model-file"):
        load_program(tmp_path / "m.pt", None)


def test_damaged_torchscript(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "m.pt"))
    with zipfile.ZipFile(tmp_path / "m.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "m.pt", "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content.replace(b"def forward", b"dfe forward"))
    with pytest.raises(LoadError, match="cannot be read"):
        load_program(tmp_path / "m.pt", None)


def test_a_cache_in_a_helper_file_is_undone_too(write, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "helper_under_test.py").write_text("CACHE = {}\n")
    source = """
        import helper_under_test
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)
                helper_under_test.CACHE.setdefault("table", torch.full((4,), 7.0))
            def forward(self, x): return self.layer(x) + helper_under_test.CACHE["table"]
    """
    path, weights = write(source, nn.ModuleDict({"layer": nn.Linear(4, 4)}).state_dict())
    assert_loaded_as_usual(path, weights, (2, 4))


def test_a_model_that_refers_to_very_much_is_built_as_usual(write, monkeypatch):
    monkeypatch.setattr(load, "_SEARCH_LIMIT", 10)
    built = []
    construct = load._construct
    monkeypatch.setattr(load, "_construct", lambda *arguments: built.append(1) or construct(*arguments))
    assert_loaded_as_usual(*write(MAPPED["linear"][0]), (2, 4))
    assert built


def test_describe_takes_anything():
    assert describe(nn.LazyLinear(3)) == "LazyLinear, 0 parameters (float32)"
    assert describe(nn.ReLU()) == "ReLU, 0 parameters (none)"
    assert describe(nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1).half())) == (
        "Sequential, 4 parameters (float16, float32)"
    )
    assert describe(print) == "builtin_function_or_method"
