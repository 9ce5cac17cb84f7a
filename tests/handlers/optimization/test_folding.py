import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from handlers.optimization.folding import pairs


def statistics(module):
    """Give normalisations the statistics that training would have left."""
    for part in module.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm) and part.running_mean is not None:
            part.running_mean.uniform_(-2, 2)
            part.running_var.uniform_(0.1, 3)
            if part.affine:
                part.weight.data.uniform_(-2, 2)
                part.bias.data.uniform_(-1, 1)
    return module.eval()


class Block(nn.Module):
    """Two convolutions with normalisations, and what each subclass does with them."""

    def __init__(self, kind=nn.Conv2d):
        super().__init__()
        self.one, self.two = kind(3, 3, 3, padding=1, bias=False), kind(3, 3, 3, padding=1)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)
        statistics(self)

    def forward(self, x):
        return functional.relu(self.second(self.two(self.first(self.one(x)))))


def names(module):
    known = {id(part): name for name, part in module.named_modules()}
    return [(known[id(pair.convolution)], known[id(pair.normalisation)]) for pair in pairs(module)]


def test_pairs_in_a_row():
    assert names(Block()) == [("one", "first"), ("two", "second")]


class Scaled(nn.Conv2d):
    def forward(self, x):
        return super().forward(2 * x)


def test_a_convolution_of_another_class_is_one_all_the_same():
    assert names(Block(Scaled)) == [("one", "first"), ("two", "second")]


class UsedTwice(Block):
    def forward(self, x):
        inner = self.one(x)
        return self.second(self.two(self.first(inner))) + inner


class CalledTwice(Block):
    def forward(self, x):
        return self.second(self.two(self.first(self.one(self.one(x)))))


class NormalisedTwice(Block):
    def forward(self, x):
        return self.first(self.two(self.first(self.one(x))))


class Between(Block):
    def forward(self, x):
        return self.second(self.two(self.first(functional.relu(self.one(x)))))


class Named(Block):
    def forward(self, x):
        return self.second(self.two(self.first(input=self.one(x))))


class Optional(Block):
    def forward(self, x, *, raw=False, scale=None):
        inner = self.one(x)
        if raw:
            return inner
        return self.second(self.two(self.first(inner if scale is None else inner * scale)))


@pytest.mark.parametrize(
    ("module", "found"),
    [
        (UsedTwice(), [("two", "second")]),
        (CalledTwice(), [("two", "second")]),
        (NormalisedTwice(), []),
        (Between(), [("two", "second")]),
        (Named(), [("two", "second")]),
        (Optional(), [("one", "first"), ("two", "second")]),
    ],
)
def test_only_what_nothing_else_sees_is_a_pair(module, found):
    assert names(module) == found


class Decides(Block):
    def forward(self, x):
        return super().forward(x) if x.sum() > 0 else x


class Fails(Block):
    def forward(self, x):
        raise RuntimeError


@pytest.mark.parametrize("kind", [Decides, Fails])
def test_what_cannot_be_run_with_symbols_has_no_pairs(kind):
    assert pairs(kind()) == []


def test_normalisations_that_are_not_constant():
    module = Block()
    module.first = nn.BatchNorm2d(3, track_running_stats=False).eval()
    module.second.train()
    assert pairs(module) == []


def test_layers_of_another_making_are_left_alone():
    class Own(nn.BatchNorm2d):
        pass

    module = Block()
    module.first = statistics(Own(3))
    assert names(module) == [("two", "second")]
    module.second.double()
    assert names(module) == []
    module = Block()
    module.one.register_forward_hook(lambda *_: None)
    module.second.register_forward_pre_hook(lambda *_: None)
    assert names(module) == []
    module = Block()
    nn.utils.parametrizations.weight_norm(module.one)
    assert names(module) == [("two", "second")]
    module.two.forward = lambda x: x
    assert names(module) == []


def test_a_weight_that_two_layers_share_stays_as_it_is():
    module = Block()
    module.two.weight = module.one.weight
    assert names(module) == []


def test_the_module_is_not_touched_by_looking():
    class Keeps(Block):
        last = None

        def forward(self, x):
            self.last = x
            return super().forward(x)

    module = Keeps()
    before = {name: id(one) for name, one in module.state_dict(keep_vars=True).items()}
    assert len(pairs(module)) == 2
    assert module.last is None
    assert {name: id(one) for name, one in module.state_dict(keep_vars=True).items()} == before


def test_a_module_that_cannot_be_copied_has_no_pairs():
    module = Block()
    module.generator = (number for number in range(3))
    assert pairs(module) == []


@settings(max_examples=40, deadline=None)
@given(
    dimensions=st.integers(1, 3),
    bias=st.booleans(),
    affine=st.booleans(),
    groups=st.sampled_from([1, 2]),
    seed=st.integers(0, 2**31),
)
def test_folded_gives_the_same_and_back_again_the_very_same(dimensions, bias, affine, groups, seed):
    torch.manual_seed(seed)
    convolution = getattr(nn, f"Conv{dimensions}d")(4, 6, 3, bias=bias, groups=groups)
    module = statistics(nn.Sequential(convolution, getattr(nn, f"BatchNorm{dimensions}d")(6, affine=affine)))
    x = torch.randn(2, 4, *[5] * dimensions)
    keys = list(module.state_dict())
    with torch.no_grad():
        expected = module(x)
        (pair,) = pairs(module)
        folded = pair.fold()
        assert torch.equal(module(x), expected)
        folded.use(folded=True)
        assert torch.allclose(module(x), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(module[0](x), module(x))
        folded.use(folded=False)
        assert torch.equal(module(x), expected)
        assert not torch.equal(module[0](x), expected)
    assert list(module.state_dict()) == keys
