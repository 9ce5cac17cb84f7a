import argparse
import collections

import pytest
import torch
from torch import nn

from handlers import CheckpointMismatchError, LoadError, UnsafeCheckpointError, UnsupportedFormatError
from handlers.loading.state_dict import find_mismatch, read_state_dict, with_keys_of


@pytest.fixture
def save(tmp_path):
    def write(content, **options):
        torch.save(content, tmp_path / "weights.pt", **options)
        return tmp_path / "weights.pt"

    return write


def mismatch(model, state, path):
    """Return the text of the error for a state dict that does not fit."""
    with pytest.raises(RuntimeError) as refused:
        model.load_state_dict(state)
    return str(find_mismatch(model, state, path, refused.value))


def test_a_state_dict_is_read_and_keeps_its_versions(save):
    model = nn.BatchNorm1d(3)
    state = read_state_dict(save(model.state_dict()))
    assert state.keys() == model.state_dict().keys()
    assert state._metadata == model.state_dict()._metadata


def test_the_legacy_format_is_read(save):
    state = {"weight": torch.arange(3.0)}
    assert torch.equal(read_state_dict(save(state, _use_new_zipfile_serialization=False))["weight"], state["weight"])


def test_safetensors_are_read(tmp_path):
    from safetensors.torch import save_file

    save_file({"weight": torch.arange(3.0)}, tmp_path / "weights.bin")
    assert torch.equal(read_state_dict(tmp_path / "weights.bin")["weight"], torch.arange(3.0))


def test_safetensors_without_the_package(tmp_path, monkeypatch):
    from safetensors.torch import save_file

    save_file({"weight": torch.arange(3.0)}, tmp_path / "w.safetensors")
    monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    with pytest.raises(UnsupportedFormatError, match="pip install safetensors"):
        read_state_dict(tmp_path / "w.safetensors")


def test_code_in_a_checkpoint_is_refused_by_name(save):
    path = save({"weight": torch.ones(1), "options": argparse.Namespace(lr=1)})
    with pytest.raises(UnsafeCheckpointError, match=r"argparse\.Namespace[^$]*weights_only: false"):
        read_state_dict(path)
    assert read_state_dict(path, weights_only=False)["options"].lr == 1


def test_code_does_not_run_while_it_is_refused(save, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    with pytest.raises(UnsafeCheckpointError, match=r"io\.open|builtins\.open"):
        read_state_dict(save({"weight": Bomb()}))
    assert not (tmp_path / "ran").exists()


def test_a_whole_model_is_refused_twice(save):
    path = save(nn.Linear(2, 2))
    with pytest.raises(UnsafeCheckpointError, match=r"torch\.nn\.modules\.linear\.Linear"):
        read_state_dict(path)
    with pytest.raises(CheckpointMismatchError, match=r"whole pickled model \(Linear\)"):
        read_state_dict(path, weights_only=False)


@pytest.mark.parametrize("content", [[torch.ones(1)], torch.ones(1), {0: torch.ones(1)}])
def test_what_is_no_state_dict(save, content):
    with pytest.raises(CheckpointMismatchError, match="not a state dict"):
        read_state_dict(save(content))


def test_torchscript_needs_no_model_file(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(str(tmp_path / "m.pt"))
    with pytest.raises(UnsupportedFormatError, match="leave out --model-file"):
        read_state_dict(tmp_path / "m.pt")


def test_a_damaged_checkpoint(save):
    path = save({"weight": torch.ones(1000)})
    content = bytearray(path.read_bytes())
    start = content.index(b"data.pkl")
    content[start + 70 : start + 100] = bytes(30)
    path.write_bytes(content)
    with pytest.raises(LoadError):
        read_state_dict(path)


def test_a_mismatch_lists_keys_and_shapes_and_names_the_parties(tmp_path):
    state = nn.Linear(3, 2).state_dict()
    state["extra"] = state.pop("bias")
    text = mismatch(nn.Linear(4, 2), state, tmp_path / "weights.pt")
    assert "weights.pt does not fit the model Linear" in text
    assert "1 missing keys: bias" in text
    assert "1 unexpected keys: extra" in text
    assert "weight: (2, 3) in the checkpoint, (2, 4) in the model" in text
    assert "Hint: check that" in text


def test_long_lists_are_cut(tmp_path):
    model = nn.Sequential(*[nn.Linear(1, 1) for _ in range(10)])
    text = mismatch(model, {}, tmp_path / "w.pt")
    assert "20 missing keys: 0.weight" in text
    assert "and 12 more" in text


@pytest.mark.parametrize(
    ("wrap", "hint"),
    [
        (lambda state: {f"module.{key}": value for key, value in state.items()} | {"x": 1}, "DataParallel"),
        (lambda state: {f"_orig_mod.{key}": value for key, value in state.items()} | {"x": 1}, "torch.compile"),
        (lambda state: {f"model.{key}": value for key, value in state.items()} | {"x": 1}, "Lightning"),
        (lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"state": {}}}, "nested under 'state_dict'"),
        (lambda state: {"model_state": dict(state)}, "nested under 'model_state'"),
        (lambda state: {f"net.{key}": value for key, value in state.items()} | {"x": 1}, "keys begin with 'net.'"),
        (lambda state: {"kernel": 1, "offset": 2}, "not one key is shared"),
    ],
)
def test_the_hint_says_what_probably_happened(tmp_path, wrap, hint):
    model = nn.Linear(2, 2)
    assert hint in mismatch(model, wrap(model.state_dict()), tmp_path / "w.pt")


def test_a_prefix_of_the_models_keys_is_named(tmp_path):
    model = nn.ModuleDict({"net": nn.Linear(2, 2)})
    assert "the model's keys begin with 'net.'" in mismatch(model, {"weight": 1, "bias": 2, "x": 3}, tmp_path / "w.pt")
    renamed = {"body.weight": torch.ones(2, 2), "body.bias": torch.ones(2)}
    assert with_keys_of(model.state_dict(keep_vars=True), renamed) is None  # it may be another layer
    text = mismatch(model, renamed, tmp_path / "w.pt")
    assert "the keys begin with 'body.', those of the model with 'net.'" in text
    assert "another model class" not in text


class Tied(nn.Module):
    """As GPT-2: the last layer has the weights of the first."""

    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(5, 3)
        self.norm = nn.BatchNorm1d(3)
        self.lm_head = nn.Linear(3, 5, bias=False)
        self.lm_head.weight = self.wte.weight


@pytest.mark.parametrize("lacks", [(), ("lm_head.weight",), ("wte.weight",)])
@pytest.mark.parametrize("prefix", ["", "model.", "module.", "_orig_mod.", "module._orig_mod.", "any.thing."])
def test_keys_that_differ_by_a_prefix_or_by_names_of_tied_weights(lacks, prefix):
    model = Tied()
    wrapped = model
    for part in reversed(prefix.split(".")[:-1]):
        wrapped = nn.ModuleDict({part: wrapped})
    state = wrapped.state_dict()
    for name in lacks:
        del state[prefix + name]
    found = with_keys_of(model.state_dict(keep_vars=True), state)
    assert found.keys() == model.state_dict().keys()
    assert all(found[key] is not None and torch.equal(found[key], value) for key, value in model.state_dict().items())
    if not lacks or prefix:
        assert found._metadata["norm"] == model.state_dict()._metadata["norm"]
    model.load_state_dict(found)
    # The other way round: the model has the prefix.
    bare = model.state_dict()
    for name in lacks:
        del bare[name]
    found = with_keys_of(wrapped.state_dict(keep_vars=True), bare)
    assert found.keys() == wrapped.state_dict().keys()
    wrapped.load_state_dict(found)


def test_keys_that_differ_by_more_are_left_alone():
    own = Tied().state_dict(keep_vars=True)
    for state in (
        {f"model.{key}": value for key, value in own.items()} | {"loss.weight": torch.ones(1)},
        {key: value for key, value in own.items() if key != "norm.bias"},
        {key: value for key, value in own.items() if "weight" not in key or "norm" in key},
        {},
    ):
        assert with_keys_of(own, state) is None
    assert with_keys_of(own, own) is own


def test_the_models_own_renaming_of_keys_counts(tmp_path):
    class Renaming(nn.Linear):
        def _load_from_state_dict(self, state_dict, prefix, *rest):
            if prefix + "kernel" in state_dict:
                state_dict[prefix + "weight"] = state_dict.pop(prefix + "kernel")
            super()._load_from_state_dict(state_dict, prefix, *rest)

    text = mismatch(Renaming(2, 2), {"kernel": torch.ones(2, 2)}, tmp_path / "w.pt")
    assert "missing keys: bias" in text
    assert "unexpected" not in text


def test_what_torch_says_is_kept_where_the_keys_agree(tmp_path):
    state = collections.OrderedDict(nn.Linear(2, 2).state_dict(), bias="text")
    assert "bias" in mismatch(nn.Linear(2, 2), state, tmp_path / "w.pt")
