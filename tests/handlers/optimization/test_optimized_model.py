"""The first call of an optimized model decides how it runs; here with compilers that take no time."""

import gc
import logging
import threading
import weakref

import pytest
import torch
from torch import nn

from handlers.optimization.apply import optimize_model, unasked
from handlers.optimization.optimized_model import OptimizedModel, Way, explaining, original
from handlers.optimization.settings import Compile, Optimization


class Net(nn.Module):
    """A network with layers that autocast computes in 16 bits, and others."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 5)
        self.strange = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).mean((2, 3)) * self.strange)

    def features(self, x):
        return self.conv(x)


@pytest.fixture
def net():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture
def picture():
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def bfloat16(model, **settings):
    return optimize_model(model, Optimization(dtype="bfloat16", **settings), None)


def call(model, *inputs, **named):
    with torch.inference_mode():
        return model(*inputs, **named)


def told(caplog):
    return [record for record in caplog.records if record.name == "handlers.optimization.optimized_model"]


def test_sixteen_bits_are_close_and_come_back_as_float32(net, picture, caplog):
    caplog.set_level(logging.INFO)
    expected = call(net, picture)
    model = bfloat16(net)
    assert model.serving is None
    for _ in range(2):
        found = call(model, picture)
        assert found.dtype == torch.float32
        assert 0 < (found - expected).abs().max() < 0.05
    assert model.serving == "bfloat16"
    assert "Serving bfloat16: it differs from the plain model by 0.0" in caplog.text
    assert [record.levelno for record in told(caplog)] == [logging.INFO]


def test_it_gives_what_autocast_gives(net, picture):
    with torch.autocast("cpu", torch.bfloat16):
        expected = call(net, picture)
    assert torch.equal(call(bfloat16(net), picture), expected.float())


def test_weights_are_cast_once_and_the_plain_ones_are_let_go(net, picture):
    numbers = net.conv.weight.detach().numpy().copy()
    plain = weakref.ref(numbers)
    net.conv.weight.data = torch.from_numpy(numbers)
    del numbers
    names = {name: id(one) for name, one in net.named_parameters()}
    model = bfloat16(net)
    assert net.conv.weight.dtype == torch.float32
    assert plain() is not None
    call(model, picture)
    kinds = {name: one.dtype for name, one in net.named_parameters()}
    cast = {"conv.weight", "conv.bias", "head.weight", "head.bias"}
    assert {name for name, kind in kinds.items() if kind == torch.bfloat16} == cast
    assert {name for name, kind in kinds.items() if kind == torch.float32} == names.keys() - cast
    assert {name: id(one) for name, one in net.named_parameters()} == names
    gc.collect()
    assert plain() is None


def test_channels_last(net, picture):
    seen = []
    net.conv.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    expected = call(net, picture)
    model = optimize_model(net, Optimization(channels_last=True), None)
    assert torch.allclose(call(model, picture), expected, atol=1e-5)
    assert model.serving == "channels_last"
    assert net.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert [one.is_contiguous(memory_format=torch.channels_last) for one in seen] == [False, False, True]
    assert torch.equal(seen[-1], picture)


def test_channels_last_leaves_other_inputs_alone():
    class Both(nn.Module):
        def forward(self, sequence, *, numbers):
            assert sequence.is_contiguous()
            assert numbers.is_contiguous()
            return sequence.sum() + numbers.sum()

    model = optimize_model(Both().eval(), Optimization(channels_last=True), None)
    numbers = torch.ones(2, 3, 4, 5, dtype=torch.int64)
    assert call(model, torch.ones(2, 3, 4), numbers=numbers) == 144
    assert model.serving == "channels_last"


def test_a_compiler_is_used(net, picture):
    used = []

    def backend(graph, inputs):
        used.append(graph)
        return graph.forward

    model = optimize_model(net, Optimization(compile=Compile("eager")), None)
    model._runner._ways = [Way("mine", lambda: torch.compile(net, backend=backend))]
    call(model, picture)
    assert len(used) == 1
    assert model.serving == "mine"


def test_its_settings_hold_while_it_compiles(net, picture):
    from torch._inductor import config

    seen = []

    def backend(graph, inputs):
        seen.append(config.max_autotune)
        return graph.forward

    model = optimize_model(net, Optimization(compile=Compile("eager")), None)
    build = lambda: torch.compile(net, backend=backend)  # noqa: E731
    model._runner._ways = [Way("mine", build, config=(("max_autotune", not config.max_autotune),))]
    call(model, picture)
    assert seen == [not config.max_autotune]
    assert model.serving == "mine"


# ---- what is wrong is not served -----------------------------------------------------------------------------------


class Narrow(nn.Module):
    """The difference of two numbers that are the same in 16 bits."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(1, 1)
        with torch.no_grad():
            self.layer.weight.fill_(1.001)
            self.layer.bias.fill_(-1.0)

    def forward(self, x):
        return self.layer(x)


def test_beyond_the_tolerance_the_plain_model_serves_this_call_too(caplog):
    plain = Narrow().eval()
    one = torch.ones(1, 1)
    expected = call(plain, one)
    weight = plain.layer.weight.data.clone()
    model = bfloat16(plain)
    for _ in range(2):
        assert torch.equal(call(model, one), expected)
    assert model.serving == "plain"
    assert torch.equal(plain.layer.weight.data, weight)
    (record,) = told(caplog)
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "optimize: bfloat16 differs by 1 of the largest number of output. Serving the plain model from now on. "
        "The tolerance is 0.05: if such answers are good enough, raise optimize.tolerance in model-config.yaml, else "
        "remove the setting"
    )


def test_a_larger_tolerance_lets_it_pass(caplog):
    model = bfloat16(Narrow().eval(), tolerance=1.0)
    call(model, torch.ones(1, 1))
    assert model.serving == "bfloat16"
    assert told(caplog) == []


def test_numbers_that_are_none_never_pass(caplog):
    class Large(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, x):
            return self.layer(x) * 1e6 * (x if self.layer.weight.dtype == torch.float32 else float("nan"))

    model = bfloat16(Large().eval(), tolerance=1.0)
    assert call(model, torch.ones(1, 1)).isfinite().all()
    assert model.serving == "plain"
    assert "differs by inf" in caplog.text


def raising(message):
    def build():
        raise RuntimeError(message)

    return build


def test_an_optimized_model_that_fails_is_left_out(net, picture, caplog):
    expected = call(net, picture)
    way = Way("mine", raising("no compiler\nat all"))
    model = OptimizedModel(net, [way], device=torch.device("cpu"), tolerance=0.1)
    assert torch.equal(call(model, picture), expected)
    assert model.serving == "plain"
    assert "optimize: mine fails with RuntimeError: no compiler. Serving the plain model from now on." in caplog.text


def test_without_the_compiler_the_rest_is_tried(net, picture, caplog):
    ways = [Way("both", raising("no compiler")), Way("bfloat16")]
    model = OptimizedModel(net, ways, device=torch.device("cpu"), dtype=torch.bfloat16, tolerance=0.05)
    call(model, picture)
    assert model.serving == "bfloat16"
    assert net.conv.weight.dtype == torch.bfloat16
    assert "optimize: both fails with RuntimeError: no compiler. Serving bfloat16 from now on." in caplog.text


def test_an_unknown_backend(net, picture, caplog):
    model = optimize_model(net, Optimization(dtype="bfloat16", compile=Compile("no_such_backend")), None)
    call(model, picture)
    assert model.serving == "bfloat16"
    assert "no_such_backend" in caplog.text


def test_a_bad_input_decides_nothing(net, picture, caplog):
    model = bfloat16(net)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="channels"):
            call(model, torch.ones(1, 7, 8, 8))
    assert model.serving is None
    call(model, picture)
    assert model.serving == "bfloat16"
    with pytest.raises(RuntimeError, match="channels"):
        call(model, torch.ones(1, 7, 8, 8))
    assert told(caplog) == []


def test_a_model_that_differs_from_itself_is_not_blamed(caplog):
    class Noisy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.calls = 0

        def forward(self, x):
            self.calls += 1
            return self.layer(x) + self.calls

    model = bfloat16(Noisy().eval())
    plain = original(model).layer(torch.ones(1, 2)) + 1
    assert torch.equal(call(model, torch.ones(1, 2)), plain)
    assert model.serving == "bfloat16"
    assert "differs from itself" in caplog.text
    assert "it is served unchecked" in caplog.text
    assert original(model).layer.weight.dtype == torch.bfloat16


def test_an_output_without_numbers_is_told(caplog):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, x):
            return ["word" for _ in self.layer(x)]

    model = bfloat16(Words().eval())
    assert call(model, torch.ones(2, 1)) == ["word", "word"]
    assert "bfloat16 is served unchecked: the output has no numbers" in caplog.text


def test_a_model_may_change_what_it_is_given(caplog):
    class Greedy(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            return self.layer(x.add_(1))

    given = torch.zeros(1, 2)
    model = bfloat16(Greedy().eval())
    call(model, given)
    assert model.serving == "bfloat16"
    assert torch.equal(given, torch.zeros(1, 2))
    assert told(caplog) == []


def test_a_compiler_that_fails_later_is_left_out(net, picture, caplog):
    def backend(graph, inputs):
        if any(isinstance(one, torch.Tensor) and one.shape == (4, 3, 8, 8) for one in inputs):
            raise ValueError("too many")
        return graph.forward

    ways = [Way("both", lambda: torch.compile(net, backend=backend, dynamic=False)), Way("bfloat16")]
    model = OptimizedModel(net, ways, device=torch.device("cpu"), dtype=torch.bfloat16, tolerance=0.05)
    call(model, picture)
    assert model.serving == "both"
    more = torch.cat([picture, picture])
    assert torch.allclose(call(model, more)[:2], call(model, more)[2:])
    assert model.serving == "bfloat16"
    assert caplog.text.count("both failed, serving bfloat16 from now on") == 1


def test_after_a_late_failure_without_anything_else_the_model_is_plain(net, picture, caplog):
    failing = []

    def backend(graph, inputs):
        if failing:
            raise ValueError("no more")
        return graph.forward

    expected = call(net, picture)
    model = OptimizedModel(
        net, [Way("mine", lambda: torch.compile(net, backend=backend))], device=torch.device("cpu"), tolerance=0.05
    )
    call(model, picture)
    failing.append(True)
    assert torch.equal(call(model, picture[:1]), expected[:1]) or torch.allclose(call(model, picture[:1]), expected[:1])
    assert model.serving == "plain"
    assert "serving the plain model from now on" in caplog.text


# ---- which calls -----------------------------------------------------------------------------------------------------


def test_threads_wait_for_the_decision(net, picture):
    model = bfloat16(net)
    found, start = [], threading.Barrier(4)

    def run():
        start.wait()
        found.append(call(model, picture))

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(torch.equal(one, found[0]) for one in found)


def test_gradients_come_from_the_plain_model_until_the_decision(net, picture):
    model = bfloat16(net)
    picture.requires_grad_()
    model(picture).sum().backward()
    plain = picture.grad.clone()
    assert model.serving is None
    assert net.conv.weight.dtype == torch.float32
    call(model, picture.detach())
    picture.grad = None
    model(picture).sum().backward()
    assert 0 < (picture.grad - plain).abs().max() < 0.05 * plain.abs().max()


def test_compiled_code_has_no_part_in_gradients(net, picture):
    class Forward(nn.Module):
        def forward(self, x):
            assert not torch.is_grad_enabled()
            return net(x)

    model = OptimizedModel(net, [Way("mine", Forward)], device=torch.device("cpu"), tolerance=0.05)
    assert not model(picture).requires_grad
    assert model.serving == "mine"
    assert model(picture.requires_grad_()).requires_grad
    # For the attributions of a layer, no gradient of the input is asked for.
    token = explaining.set(True)
    try:
        assert model(picture.detach()).requires_grad
        with torch.no_grad():
            assert not model(picture.detach()).requires_grad
    finally:
        explaining.reset(token)
    assert not model(picture.detach()).requires_grad


def test_it_has_what_the_model_has(net, picture):
    net.classes = ["a", "b"]
    model = bfloat16(net)
    assert model.classes == ["a", "b"]
    assert model.head is net.head
    assert original(model) is net
    assert original(net) is net
    expected = call(net.features, picture)
    assert torch.equal(call(model.features, picture), expected)
    call(model, picture)
    found = call(model.features, picture)
    assert found.dtype == torch.float32
    assert 0 < (found - expected).abs().max() < 0.05
    with pytest.raises(AttributeError, match="nothing"):
        _ = model.nothing


# ---- convolutions that do the normalisation after them ---------------------------------------------------------------


def folded(model, **settings):
    return optimize_model(model, Optimization(freezing=True, **settings), None)


@pytest.fixture
def normalised(net):
    net.norm.running_mean.uniform_(-1, 1)
    net.norm.running_var.uniform_(0.2, 2)
    return net


def test_convolutions_do_what_comes_after_them(normalised, picture):
    expected = call(normalised, picture)
    weight, bias = normalised.conv.weight.clone(), normalised.conv.bias
    model = folded(normalised, channels_last=True)
    assert torch.equal(normalised.conv.weight, weight)
    assert torch.allclose(call(model, picture), expected, atol=1e-5)
    assert model.serving == "channels_last, freezing"
    assert normalised.conv.weight.is_contiguous(memory_format=torch.channels_last)
    assert normalised.conv.bias is not bias
    assert not torch.allclose(normalised.conv.weight, weight)
    nothing = torch.rand(1, 4, 2, 2)
    assert normalised.norm(nothing) is nothing
    assert torch.allclose(call(model, picture), expected, atol=1e-5)


def test_sixteen_bits_and_folded(normalised, picture):
    expected = call(normalised, picture)
    model = folded(normalised, dtype="bfloat16")
    assert 0 < (call(model, picture) - expected).abs().max() < 0.05 * expected.abs().max()
    assert model.serving == "bfloat16, freezing"
    assert (normalised.conv.weight.dtype, normalised.conv.bias.dtype) == (torch.bfloat16, torch.bfloat16)


class Standardised(nn.Conv2d):
    """Its output is not proportional to its weight."""

    def forward(self, x):
        return self._conv_forward(x, self.weight / self.weight.std(), self.bias)


def test_what_folding_makes_wrong_is_not_folded(normalised, picture, caplog):
    torch.manual_seed(3)
    normalised.conv = Standardised(3, 4, 3).eval()
    expected = call(normalised, picture)
    weight, bias = normalised.conv.weight.clone(), normalised.conv.bias
    model = folded(normalised, channels_last=True)
    assert torch.allclose(call(model, picture), expected, atol=1e-5)
    assert model.serving == "channels_last"
    assert torch.equal(normalised.conv.weight, weight)
    assert normalised.conv.bias is bias
    assert "optimize: channels_last, freezing differs by" in caplog.text
    model = folded(normalised)
    assert torch.allclose(call(model, picture), expected, atol=1e-5)
    assert model.serving == "plain"
    assert torch.equal(normalised.conv.weight, weight)


# ---- what is optimized unasked ---------------------------------------------------------------------------------------


class Net8(nn.Module):
    """A network of eight convolutions, and what each subclass does after them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(*(nn.Conv2d(3, 3, 3, padding=1) for _ in range(8)))
        self.calls = 0
        self.kept = []
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        return self.layers(x)


def unasked_of(model):
    return optimize_model(model.eval(), unasked(model, None), None)


class Counts(Net8):
    def forward(self, x):
        self.calls += 1
        return super().forward(x)


class Keeps(Net8):
    def forward(self, x):
        self.kept.append(x)
        return super().forward(x)


class Sums(Net8):
    def forward(self, x):
        self.seen += 1
        return super().forward(x) * self.seen


class Views(Net8):
    def forward(self, x):
        return super().forward(x).view(len(x), -1)


class Words(Net8):
    def forward(self, x):
        return [str(super().forward(x).shape)]


class Guesses(Net8):
    def forward(self, x):
        return super().forward(x) + torch.rand(1)


@pytest.mark.parametrize("kind", [Counts, Keeps, Sums, Views, Words, Guesses])
def test_what_keeps_a_state_or_cannot_be_compared_is_left_alone(kind, picture, caplog):
    caplog.set_level(logging.INFO)
    model = unasked_of(kind())
    first = call(model, picture)
    assert model.serving == "plain"
    assert all(record.levelno == logging.INFO for record in caplog.records)
    assert "the plain model runs, for" in caplog.text
    assert original(model).layers[0].weight.is_contiguous()
    if kind in (Counts, Keeps, Sums):
        assert (model.calls, len(model.kept), model.seen.item()) in [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    if kind is Views:
        assert torch.equal(first, call(original(model), picture))


def test_a_net_of_convolutions_runs_with_the_channels_last_unasked(picture, caplog):
    caplog.set_level(logging.INFO)
    net = Net8().eval()
    expected = call(net, picture)
    model = unasked_of(net)
    assert torch.allclose(call(model, picture), expected, atol=1e-5)
    assert model.serving == "channels_last"
    assert net.layers[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(record.levelno == logging.INFO for record in caplog.records)


def test_an_inference_tensor_among_its_attributes_is_no_state(picture):
    net = Net8().eval()
    with torch.inference_mode():
        net.table = torch.ones(3)
    model = unasked_of(net)
    call(model, picture)
    assert model.serving == "channels_last"
