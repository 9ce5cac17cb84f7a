"""Whether a compiled model fits, and which model answers; a real one is in tests/archive_tool/building/test_aot.py."""

import logging

import pytest
import torch
from torch import nn

from handlers import LoadError
from handlers.loading.signature import Tensor
from handlers.optimization import aot
from handlers.optimization.aot import CompiledModel, capability, machine, read_compiled, with_compiled
from handlers.optimization.settings import Optimization
from handlers.optimization.torch_compile import CompiledCodeError, is_compiler_error

CPU = torch.device("cpu")


def recorded(**changes):
    compiled = {"path": "MAR-INF/compiled/model", **machine(CPU)}
    compiled["inputs"] = [{"name": "0", "dtype": "float32", "shape": [None, 3]}]
    return {"torchmar": {"compiled": compiled | changes}}


class Package:
    """The object that torch loads; it keeps what it is called with."""

    def __init__(self, error=None):
        self.calls = []
        self._error = error

    def __call__(self, *inputs, **named):
        self.calls.append((inputs, named))
        if self._error:
            raise self._error
        return "compiled"


class Eager(nn.Module):
    def forward(self, *inputs, **named):
        return "eager"


# ---- does it fit? ----------------------------------------------------------------------------------------------------


def test_a_system_that_tells_no_instruction_sets(monkeypatch):
    monkeypatch.setattr(aot, "instruction_sets", lambda: None)
    (found,) = capability(CPU)
    assert found.startswith(torch.backends.cpu.get_cpu_capability())


def test_a_gpus_compute_capability(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert capability(torch.device("cuda", 1)) == ["sm_90"]


def test_what_was_compiled_here_fits_here():
    found = read_compiled(recorded())
    assert found.misfit(CPU) is None
    assert found.inputs == (Tensor("0", torch.float32, (None, 3)),)
    assert found.dtype == "float32"


def test_what_computes_in_another_type_than_asked_for(caplog):
    caplog.set_level(logging.INFO)
    manifest = recorded(dtype="bfloat16")
    found = read_compiled(manifest)
    assert found.misfit(CPU) is None
    assert found.misfit(CPU, "bfloat16") is None
    asked = Optimization(dtype="float32", channels_last=True)
    assert with_compiled(Eager(), manifest, None, CPU, asked) is None
    assert caplog.messages == [
        "Not serving the model compiled ahead of time: it computes in bfloat16, and optimize.dtype in "
        "model-config.yaml is float32"
    ]


def test_a_model_that_is_no_module_has_nothing_to_be_compared_with(tmp_path):
    assert with_compiled(object(), recorded(), tmp_path, CPU) is None


def test_builds_of_one_version_are_one_for_the_processor_and_two_for_a_gpu(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "2.15.0+cu130")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    assert machine(CPU)["torch"] == "2.15.0"
    assert machine(torch.device("cuda"))["torch"] == "2.15.0+cu130"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"device": "cuda"}, "it is for cuda, and the device is cpu"),
        ({"platform": "linux-s390x"}, "it is for linux-s390x, and this is "),
        ({"torch": "2.0.1"}, "it is for torch 2.0.1, and this is 2."),
        ({"capability": ["quantum", "sse"]}, "it needs quantum"),
    ],
)
def test_what_was_compiled_for_another_machine(changes, reason, caplog):
    caplog.set_level(logging.INFO)
    assert reason in read_compiled(recorded(**changes)).misfit(CPU)
    assert with_compiled(Eager(), recorded(**changes), None, CPU) is None
    (line,) = caplog.records
    assert line.message.startswith(f"Not serving the model compiled ahead of time: {reason}")
    assert line.levelno == logging.INFO


@pytest.mark.parametrize("manifest", [None, {}, {"torchmar": None}, {"torchmar": {"inputs": []}}])
def test_an_archive_without_a_compiled_model(manifest, caplog):
    assert with_compiled(Eager(), manifest, None, CPU) is None
    assert caplog.records == []


@pytest.mark.parametrize(
    "changes",
    [
        {"path": None},
        {"torch": 2},
        {"dtype": 2},
        {"inputs": []},
        {"inputs": [{"name": "0", "dtype": "complex64", "shape": [1]}]},
        {"inputs": 3},
        {"capability": [1]},
        {"capability": None},
    ],
)
def test_a_record_that_makes_no_sense(changes, caplog):
    with pytest.raises(LoadError, match="what the manifest says of the compiled model cannot be used"):
        read_compiled(recorded(**changes))
    assert with_compiled(Eager(), recorded(**changes), None, CPU) is None
    assert caplog.records[0].levelno == logging.WARNING


@pytest.mark.parametrize("path", ["MAR-INF/compiled/model", "../outside", "/etc"])
def test_a_compiled_model_that_cannot_be_loaded_is_told_and_the_eager_one_serves(tmp_path, path, caplog):
    (tmp_path / "outside").mkdir()
    (tmp_path / "model").mkdir()
    assert with_compiled(Eager(), recorded(path=path), tmp_path / "model", CPU) is None
    (line,) = caplog.records
    assert line.levelno == logging.WARNING
    assert line.message.startswith("Not serving the model compiled ahead of time: ")
    assert ("is not in the archive" in line.message) is (path != "MAR-INF/compiled/model")


# ---- which model answers? --------------------------------------------------------------------------------------------


INPUTS = (Tensor("0", torch.float32, (None, 3)), Tensor("mask", torch.int64, (None,)))


@pytest.fixture
def package():
    return Package()


@pytest.fixture
def model(package):
    return CompiledModel(package, Eager(), INPUTS)


def test_inputs_that_it_was_compiled_for(model, package):
    for rows in (1, 2, 70):
        assert model(torch.zeros(rows, 3), mask=torch.zeros(rows, dtype=torch.int64)) == "compiled"
    assert [call[0][0].shape[0] for call in package.calls] == [1, 2, 70]
    assert list(package.calls[0][1]) == ["mask"]


@pytest.mark.parametrize(
    ("inputs", "named"),
    [
        ((torch.zeros(2, 4),), {"mask": torch.zeros(2, dtype=torch.int64)}),  # another size
        ((torch.zeros(2, 3, 1),), {"mask": torch.zeros(2, dtype=torch.int64)}),  # another dimension
        ((torch.zeros(2, 3).double(),), {"mask": torch.zeros(2, dtype=torch.int64)}),  # another type
        ((torch.zeros(0, 3),), {"mask": torch.zeros(0, dtype=torch.int64)}),  # nothing
        ((torch.zeros(2, 3),), {"mask": 3}),
        ((torch.zeros(2, 3).to_sparse(),), {"mask": torch.zeros(2, dtype=torch.int64)}),
        ((torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)), {}),  # by position
        ((torch.zeros(2, 3),), {"masks": torch.zeros(2, dtype=torch.int64)}),  # another name
        ((), {}),
    ],
)
def test_all_others_go_to_the_plain_model_which_is_told_once(model, package, inputs, named, caplog):
    for _ in range(2):
        assert model(*inputs, **named) == "eager"
    assert package.calls == []
    (line,) = caplog.records
    assert line.message.endswith("does not take; it takes float32 [any, 3], int64 [any]")


def test_the_code_gets_the_strides_and_the_alignment_that_it_counts_on(package):
    model = CompiledModel(package, Eager(), (Tensor("0", torch.float32, (None, 3)),))
    turned = torch.arange(6.0).view(3, 2).t()
    shifted = torch.arange(7.0)[1:].view(2, 3)
    for given in (turned, shifted):
        model(given)
        ((taken,), _) = package.calls[-1]
        assert taken.is_contiguous()
        assert taken.data_ptr() % 16 == 0
        assert torch.equal(taken, given)


def test_a_failure_of_the_code_is_none_of_the_input(package):
    model = CompiledModel(Package(RuntimeError("broken")), Eager(), (Tensor("0", torch.float32, (2,)),))
    with pytest.raises(CompiledCodeError, match="RuntimeError: broken") as raised:
        model(torch.zeros(2))
    assert is_compiler_error(raised.value)
    assert not is_compiler_error(RuntimeError("broken"))
