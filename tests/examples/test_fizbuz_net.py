"""The loop in the network, plain and as TorchScript, which a trace cannot keep."""

import copy
import warnings

import pytest
import torch

from examples.fizbuz.fizbuz_net import FizbuzNet


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return FizbuzNet().eval()


def folded(number):
    while number >= 1024:
        number = number // 16 + number % 16
    return number


@pytest.mark.parametrize("scripted", [False, True])
def test_a_large_number_is_called_as_a_small_one_of_its_remainder(net, scripted):
    model = torch.jit.script(net) if scripted else net
    numbers = [0, 1, 1023, 1024, 10**6, 10**12, 2**62, 2**63 - 1]
    small = [folded(number) for number in numbers]
    assert [one % 15 for one in small] == [one % 15 for one in numbers]
    assert torch.equal(model(torch.tensor(numbers)), model(torch.tensor(small)))


def test_a_trace_keeps_the_rounds_of_its_example(net):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer says so
        frozen = copy.deepcopy(net).requires_grad_(False)
        # Not the module, whose exported method a trace does not take.
        traced = torch.jit.trace(lambda numbers: frozen(numbers), (torch.tensor([5]),), check_trace=False)
    assert torch.equal(traced(torch.tensor([7])), net(torch.tensor([7])))
    assert not torch.equal(traced(torch.tensor([10**6])), net(torch.tensor([10**6])))


@pytest.mark.parametrize("scripted", [False, True])
@pytest.mark.parametrize(("category", "word"), [(0, "7"), (1, "fizz"), (2, "buzz"), (3, "fizzbuzz")])
def test_what_is_said(category, word, scripted):
    net = FizbuzNet()
    with torch.no_grad():
        net.layers[2].weight.zero_()
        net.layers[2].bias.copy_(torch.eye(4)[category])
    assert (torch.jit.script(net) if scripted else net).say(7) == word
