"""Texts that `generate` writes, a token at a time."""

import threading
from functools import cache

import pytest
import torch

from handlers.errors import BadInputError
from handlers.pretrained.generation.beside import Beside
from handlers.pretrained.generation.sequence import LENGTH, Text, Written
from tests.handlers.pretrained.models import make_writer

tiny = cache(lambda: make_writer("Llama"))  # a model, and its tokenizer
PROMPT = [5, 6, 7]
CPU = torch.device("cpu")
BEAMS = {"num_beams": 3, "max_new_tokens": 8, "do_sample": False}
DRAWN = {**BEAMS, "do_sample": True, "temperature": 2.0, "top_k": 50}


def text(arguments, seed=None, **options):
    return Written(list(PROMPT), 8, Text(tiny()[1], PROMPT, ()), alone=arguments, seed=seed, **options)


def expected(arguments, seed=0):
    torch.manual_seed(seed)
    with torch.inference_mode():
        return tiny()[0].generate(torch.tensor([PROMPT]), **arguments)[0, len(PROMPT) :].tolist()


def threads():
    return [one.name for one in threading.enumerate()].count("generate")


def test_one_token_in_each_step():
    one = text(BEAMS)
    beside = Beside(tiny()[0], CPU, one)
    for _ in range(8):
        assert not one.over
        assert threads() == 1
        ended = beside.step()
    assert not ended  # `generate` has still to choose among its beams
    assert beside.step()
    assert one.new == expected(BEAMS)
    assert threads() == 0


def test_what_is_drawn_is_by_its_own_seed():
    first, second = text(DRAWN, seed=3), text(DRAWN, seed=4)
    besides = [Beside(tiny()[0], CPU, first), Beside(tiny()[0], CPU, second)]
    torch.manual_seed(9)
    before = torch.get_rng_state()
    while besides:
        besides = [one for one in besides if not one.step()]
    assert torch.equal(torch.get_rng_state(), before)
    assert [first.new, second.new] == [expected(DRAWN, 3), expected(DRAWN, 4)]
    assert first.new != second.new


def test_one_that_is_left_ends():
    begun, new = (Beside(tiny()[0], CPU, text(BEAMS)) for _ in range(2))
    begun.step()
    for one in (begun, new):
        one.leave()
        assert not one.one.over
    assert threads() == 0


def test_it_ends_in_time():
    one = text(BEAMS, until=0.0)
    beside = Beside(tiny()[0], CPU, one)
    while not beside.step():
        pass
    assert (len(one.new), one.finish) == (1, LENGTH)


@pytest.mark.parametrize("error", [OverflowError("34"), BadInputError("too extreme"), RuntimeError("no")])
def test_an_error_is_the_texts(error, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(tiny()[0], "forward", fail)
    one = text(BEAMS)
    assert Beside(tiny()[0], CPU, one).step()
    is_ours = isinstance(error, RuntimeError)
    assert isinstance(one.error, RuntimeError if is_ours else BadInputError)
    assert threads() == 0


def test_a_text_that_cannot_be_decoded_has_the_error_itself(monkeypatch):
    """As where the model has more tokens than its tokenizer."""

    def fail(*_, **__):
        raise TypeError("a token without a text")

    one = text(BEAMS)
    monkeypatch.setattr(one.text, "add", fail)
    beside = Beside(tiny()[0], CPU, one)
    while not beside.step():
        pass
    assert isinstance(one.error, TypeError)


def test_without_memory_it_is_everybodys(monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr(tiny()[0], "forward", fail)
    with pytest.raises(MemoryError):
        Beside(tiny()[0], CPU, text(BEAMS)).step()
    assert threads() == 0


def test_nothing_that_can_be_drawn_is_the_requests_fault():
    one = text({**DRAWN, "suppress_tokens": [*range(len(tiny()[1]))]}, seed=1)
    beside = Beside(tiny()[0], CPU, one)
    while not beside.step():
        pass
    assert isinstance(one.error, BadInputError)
    assert "too extreme" in str(one.error)
