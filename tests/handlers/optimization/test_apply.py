"""The effect of the section `optimize:` on each kind of model."""

import copy
import logging

import pytest
import torch
from torch import nn

from handlers.loading.load import load_program
from handlers.optimization import apply
from handlers.optimization.apply import optimize_model, unasked
from handlers.optimization.optimized_model import OptimizedModel
from handlers.optimization.settings import Compile, Optimization


def scripted():
    return torch.jit.script(nn.Linear(2, 2).eval())


def test_a_model_that_is_compiled_already_stays_as_it_is(caplog):
    class Package:
        summary = "AOTInductor package for cpu"

    package = Package()
    assert optimize_model(package, Optimization(dtype="bfloat16"), None) is package
    assert "no effect on this model (AOTInductor package for cpu)" in caplog.text


def test_nothing_to_do():
    model = nn.Linear(2, 2).eval()
    assert optimize_model(model, Optimization(tolerance=0.5), None) is model


def test_freezing_without_a_compiler_is_for_normalisations_after_convolutions(caplog):
    model = nn.Linear(2, 2).eval()
    assert optimize_model(model, Optimization(freezing=True), None) is model
    assert "freezing without compile has no effect on this model" in caplog.text
    caplog.clear()
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
    assert optimize_model(model, Optimization(freezing=True), None) is not model
    assert caplog.records == []


def convolutions(count=8, kind=nn.Conv2d):
    return nn.Sequential(*(kind(1, 1, 3) for _ in range(count))).eval()


@pytest.mark.parametrize(
    ("model", "device"),
    [
        (convolutions(7), "cpu"),
        (convolutions(kind=nn.Conv1d), "cpu"),
        (convolutions(), "cuda"),
        (convolutions().double(), "cpu"),
        (nn.Sequential(convolutions(), nn.Linear(2, 2).bfloat16()), "cpu"),
        (torch.fx.symbolic_trace(convolutions()), "cpu"),
        (lambda x: x, "cpu"),
    ],
)
def test_what_nothing_is_done_for_unasked(model, device):
    assert unasked(model, torch.device(device)) is None


def test_a_net_of_convolutions_on_a_processor_is_optimized_unasked(caplog):
    caplog.set_level(logging.INFO)
    for device in (None, torch.device("cpu")):
        found = unasked(convolutions(), device)
        assert found == Optimization(channels_last=True, freezing=True, tolerance=1e-4, unasked=True)
    assert unasked(torch.jit.script(convolutions()), None) is None
    model = optimize_model(convolutions(), found, None)
    assert "A convolutional network: running it with channels_last if the first request" in caplog.text
    assert [record.levelno for record in caplog.records] == [logging.INFO]
    model(torch.rand(1, 1, 20, 20))
    assert model.serving == "channels_last"


def test_nothing_is_done_unasked_without_the_library_that_gains_by_it(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert unasked(convolutions(), None) is None


def test_torchscript_is_not_compiled_again(caplog):
    model = scripted()
    assert optimize_model(model, Optimization(compile=Compile()), None) is model
    assert "compile has no effect on TorchScript" in caplog.text
    caplog.clear()
    assert optimize_model(model, Optimization(channels_last=True), None, pt2={"backend": "eager"}) is not model
    assert "pt2 has no effect on TorchScript" in caplog.text


@pytest.mark.parametrize("lacks", [True, False])
def test_a_processor_without_the_instructions(monkeypatch, caplog, lacks):
    monkeypatch.setattr(apply, "lacks_instructions", lambda dtype: lacks and dtype == "bfloat16")
    optimize_model(nn.Linear(2, 2).eval(), Optimization(dtype="bfloat16"), None)
    assert ("This processor has no instructions for bfloat16: float32 is likely faster" in caplog.text) is lacks
    caplog.clear()
    optimize_model(nn.Linear(2, 2).eval(), Optimization(channels_last=True), None)
    assert caplog.records == []


def test_cuda_graphs_need_cuda(caplog):
    caplog.set_level(logging.INFO)
    model = optimize_model(nn.Linear(2, 2).eval(), Optimization(compile=Compile("eager"), cuda_graphs=True), None)
    assert isinstance(model, OptimizedModel)
    assert "optimize.cuda_graphs has no effect on cpu" in caplog.text
    assert "Optimizing with eager; " in caplog.text


def test_frozen_torchscript_gives_the_same_and_has_gradients(caplog):
    caplog.set_level(logging.INFO)
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()).eval()
    inputs = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        expected = plain(inputs)
    model = optimize_model(torch.jit.script(plain), Optimization(freezing=True), None)
    with torch.inference_mode():
        assert torch.allclose(model(inputs), expected, atol=1e-5)
        assert torch.allclose(model(inputs[:1]), expected[:1], atol=1e-5)
    assert model.serving == "freezing"
    inputs.requires_grad_()
    model(inputs).sum().backward()
    assert inputs.grad.abs().sum() > 0


def test_torchscript_in_sixteen_bits():
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()
    inputs = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        expected = plain(inputs)
    # What is made of one model would share its weights.
    for script in (torch.jit.script(copy.deepcopy(plain)), torch.jit.trace(plain, inputs)):
        model = optimize_model(script, Optimization(dtype="bfloat16", channels_last=True), None)
        with torch.inference_mode():
            found = model(inputs)
        assert model.serving == "bfloat16, channels_last"
        assert found.dtype == torch.float32
        assert 0 < (found - expected).abs().max() < 0.05
        assert next(script.parameters()).dtype == torch.bfloat16


# ---- programs of torch.export --------------------------------------------------------------------------------------


class Tied(nn.Module):
    """A model with weights of layers, one of which something else uses, too."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)
        self.shared = nn.Linear(5, 5)

    def forward(self, x):
        y = self.head(self.norm(self.conv(x)).relu().mean((2, 3)))
        return self.shared(y) + self.shared.weight.sum()


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Make a program anew for each use: what is made of one model would share its weights."""
    torch.manual_seed(0)
    plain = Tied().eval()
    path = tmp_path_factory.mktemp("program") / "net.pt2"
    free = ({0: torch.export.Dim("rows", min=1)},)
    torch.export.save(torch.export.export(plain, (torch.rand(2, 3, 8, 8),), dynamic_shapes=free), path)
    return plain, lambda: load_program(path, torch.device("cpu"))


@pytest.mark.parametrize(
    ("asked", "serving", "close"),
    [
        (Optimization(dtype="bfloat16"), "bfloat16", 0.05),
        (Optimization(dtype="float16"), "float16", 0.01),
        (Optimization(channels_last=True), "channels_last", 1e-5),
        (Optimization(compile=Compile("eager")), "eager", 1e-6),
        (
            Optimization(dtype="bfloat16", channels_last=True, compile=Compile("eager")),
            "bfloat16, channels_last, eager",
            0.05,
        ),
    ],
)
def test_a_program_of_torch_export(program, asked, serving, close):
    plain, load = program
    inputs = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    model = optimize_model(load(), asked, None)
    with torch.inference_mode():
        expected = plain(inputs)
        for rows in (3, 1, 2):  # the first decides
            found = model(inputs[:rows])
            assert found.dtype == torch.float32
            assert (found - expected[:rows]).abs().max() < close * expected.abs().max()
    assert model.serving == serving


def test_the_weights_of_a_program_are_cast_once(program):
    """Those that autocast would cast at every call, and no others; the numbers are autocast's."""
    plain, load = program
    module = load()
    inputs = torch.rand(2, 3, 8, 8)
    with torch.inference_mode():
        with torch.autocast("cpu", torch.bfloat16):
            expected = module(inputs)
        assert torch.equal(optimize_model(module, Optimization(dtype="bfloat16"), None)(inputs), expected.float())
    cast = {name for name, one in module.program.named_parameters() if one.dtype == torch.bfloat16}
    weights = {"conv.weight", "head.weight"}
    # Before torch 2.7 a program's biases are cast at every call.
    assert cast in (weights, weights | {"conv.bias", "head.bias", "shared.bias"})
    assert {one.dtype for one in plain.parameters()} == {torch.float32}


def test_freezing_a_program_is_the_compilers(program, caplog):
    _, load = program
    model = load()
    assert optimize_model(model, Optimization(freezing=True), None) is model
    assert "freezing without compile has no effect on this model" in caplog.text


def test_the_arguments_of_pt2_are_used_beside_the_section():
    model = optimize_model(nn.Linear(2, 2).eval(), Optimization(dtype="bfloat16"), None, pt2={"backend": "eager"})
    with torch.inference_mode():
        model(torch.rand(1, 2))
    assert model.serving == "bfloat16 and pt2"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_graphs():
    gpu = torch.device("cuda:0")
    plain = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).eval().to(gpu)
    inputs = torch.rand(4, 8, device=gpu)
    with torch.inference_mode():
        expected = plain(inputs)
        model = optimize_model(plain, Optimization(dtype="float16", compile=Compile(), cuda_graphs=True), gpu)
        found = [model(inputs[index : index + 1]) for index in range(4)]
    assert model.serving == "float16, inductor, CUDA graphs"
    assert torch.allclose(torch.cat(found), expected, atol=0.01)
