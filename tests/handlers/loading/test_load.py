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

HEAD = "import copy, functools, torch\nfrom torch import nn\nfrom torch.nn import functional as F\n\n"

# Each is the body of a model file and the shape of an input. The first are built on meta, the others cannot be.
MAPPED = {
    "linear": ("class Net(nn.Linear):\n    def __init__(self): super().__init__(4, 3)", (2, 4)),
    "convolution and batch norm": (
        """
        class Net(nn.Sequential):
            def __init__(self):
                super().__init__(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
        """,
        (2, 3, 8, 8),
    ),
    "transformer, which copies its layers": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2)
            def forward(self, x): return self.body(x)
        """,
        (2, 5, 8),
    ),
    "recurrent": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.lstm = nn.LSTM(4, 6, num_layers=2, bidirectional=True, batch_first=True, proj_size=3)
                self.gru = nn.GRU(6, 5, batch_first=True)
            def forward(self, x): return self.gru(self.lstm(x)[0])[0]
        """,
        (2, 7, 4),
    ),
    "tied weights": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
                self.second.weight = self.first.weight
            def forward(self, x): return self.second(self.first(x))
        """,
        (2, 4),
    ),
    "one module under two names": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.first = self.second = nn.Linear(4, 4)
            def forward(self, x): return self.second(self.first(x))
        """,
        (2, 4),
    ),
    "persistent buffers": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.register_buffer("scale", torch.arange(4.0))
                self.register_buffer("nothing", None)
                self.w = nn.ParameterList([nn.Parameter(torch.randn(4)), nn.Parameter(torch.randn(4))])
            def forward(self, x): return x * self.scale + self.w[0] - self.w[1]
        """,
        (2, 4),
    ),
    "half precision, set in the constructor": (
        """
        class Net(nn.Linear):
            def __init__(self):
                super().__init__(4, 3)
                self.double()
            def forward(self, x): return super().forward(x.double())
        """,
        (2, 4),
    ),
    "parametrised": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
            def forward(self, x): return self.layer(x)
        """,
        (2, 4),
    ),
}
BUILT = {
    "buffers that are not saved": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)
                self.register_buffer("places", torch.arange(4.0), persistent=False)
            def forward(self, x): return self.layer(x + self.places)
        """,
        (2, 4),
    ),
    "plain tensors in attributes": (
        """
        class Holder: pass
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)
                self.one = torch.full((4,), 2.0)
                self.several = [torch.ones(4), {"deep": (torch.full((4,), 3.0),)}]
                self.holder = Holder()
                self.holder.value = torch.full((4,), 5.0)
            def forward(self, x):
                return self.layer(x + self.one) + self.several[0] * self.several[1]["deep"][0] - self.holder.value
        """,
        (2, 4),
    ),
    "a tensor in a closure": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)
                scale = torch.full((4,), 2.0)
                self.act = lambda x: x * scale
                self.part = functools.partial(torch.add, torch.ones(4))
            def forward(self, x): return self.part(self.act(self.layer(x)))
        """,
        (2, 4),
    ),
    "a parameter in a list": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)
                self.all = [self.layer.weight]
            def forward(self, x): return x @ self.all[0]
        """,
        (2, 4),
    ),
    "a remembered device": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)
                self.device = self.layer.weight.device
            def forward(self, x): return self.layer(x) + torch.arange(4, device=self.device)
        """,
        (2, 4),
    ),
    "a remembered type of device": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)
                self.kind = self.layer.weight.device.type
            def forward(self, x): return self.layer(x) + torch.arange(4, device=self.kind)
        """,
        (2, 4),
    ),
    "a constructor that reads values": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.rates = [rate.item() for rate in torch.linspace(0, 1, 4)]
                self.layer = nn.Linear(4, 4)
            def forward(self, x): return self.layer(x) + torch.tensor(self.rates)
        """,
        (2, 4),
    ),
    "a buffer that is a view of a parameter": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)
                self.register_buffer("row", self.layer.weight.data[0])
            def forward(self, x): return self.layer(x) + self.row
        """,
        (2, 4),
    ),
    "weight norm in its old form": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = torch.nn.utils.weight_norm(nn.Linear(4, 3))
            def forward(self, x): return self.layer(x)
        """,
        (2, 4),
    ),
    "a cache of the module": (
        """
        CACHE = {}
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)
                CACHE.setdefault("table", torch.full((4,), 7.0))
            def forward(self, x): return self.layer(x) + CACHE["table"]
        """,
        (2, 4),
    ),
    "a cached function": (
        """
        @functools.lru_cache
        def table(size): return torch.full((size,), 7.0)
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)
                table(4)
            def forward(self, x): return self.layer(x) + table(4)
        """,
        (2, 4),
    ),
    "a cache of the class": (
        """
        class Net(nn.Module):
            table = None
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)
                if Net.table is None:
                    Net.table = torch.full((4,), 7.0)
            def forward(self, x): return self.layer(x) + self.table
        """,
        (2, 4),
    ),
    "TorchScript inside": (
        """
        class Part(torch.jit.ScriptModule):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(4, 4)
            @torch.jit.script_method
            def forward(self, x): return self.layer(x)
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.part = Part()
            def forward(self, x): return self.part(x)
        __all__ = ["Net"]
        """,
        (2, 4),
    ),
    "quantised": (
        """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = torch.ao.nn.quantized.Linear(4, 3)
            def forward(self, x): return self.layer(torch.quantize_per_tensor(x, 0.1, 0, torch.quint8)).dequantize()
        """,
        (2, 4),
    ),
    "a hook that renames keys": (
        """
        class Net(nn.Linear):
            def __init__(self): super().__init__(4, 3)
            def state_dict(self, *args, **kwargs):
                return {key.replace("weight", "kernel"): v for key, v in super().state_dict(*args, **kwargs).items()}
            def _load_from_state_dict(self, state_dict, prefix, *rest):
                if prefix + "kernel" in state_dict:
                    state_dict[prefix + "weight"] = state_dict.pop(prefix + "kernel")
                super()._load_from_state_dict(state_dict, prefix, *rest)
        """,
        (2, 4),
    ),
    "a loader that copies by itself": (
        """
        class Net(nn.Linear):
            def __init__(self): super().__init__(4, 3)
            def _load_from_state_dict(self, state_dict, prefix, *rest):
                self.weight.data.copy_(state_dict[prefix + "weight"])
                self.bias.data.copy_(state_dict[prefix + "bias"])
        """,
        (2, 4),
    ),
}
ALL = MAPPED | BUILT


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
