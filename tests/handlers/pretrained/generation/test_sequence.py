"""One text: its pieces, where it stops, and how the next token is chosen."""

import time
from functools import cache

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers.errors import BadInputError
from handlers.pretrained.generation.sequence import ENDED, LENGTH, STOPPED, Chooser, Text, Written
from tests.handlers.pretrained.models import make_byte_tokenizer, make_writer

tokenizer = cache(make_byte_tokenizer)
tiny = cache(lambda: make_writer("Llama"))  # a model, and its tokenizer


def tokens(text):
    return tokenizer()(text)["input_ids"]


def pieces(text, stops=(), prompt="the rain"):
    found = Text(tokenizer(), tokens(prompt), stops)
    ids = tokens(text)
    parts = []
    for index, one in enumerate(ids):
        parts.append(found.add([one], last=index == len(ids) - 1))
        if found.stopped:
            break
    return parts, found


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=30), st.text(max_size=8))
def test_pieces_are_whole_characters_and_join_to_the_text(text, prompt):
    parts, found = pieces(text, prompt=prompt)
    assert "".join(parts) == found.text == tokenizer().decode(tokens(text))
    assert "\ufffd" not in "".join(parts) or "\ufffd" in text


@settings(max_examples=60, deadline=None)
@given(st.text("abc", max_size=20), st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=3))
def test_a_text_ends_before_the_first_stop(text, stops):
    parts, found = pieces(text, stops)
    # The first to be complete ends it; of those that are complete with one token, the one that begins first.
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    complete = min((end for end, _ in ends), default=None)
    expected = text if complete is None else text[: min(at for end, at in ends if end == complete)]
    assert "".join(parts) == found.text == expected
    assert found.stopped == (complete is not None)


def test_what_is_no_character_comes_nevertheless():
    ids = tokens("é")[:1] * 6
    found = Text(tokenizer(), tokens("a"), ())
    assert "".join(found.add([one], last=index == 5) for index, one in enumerate(ids)) == "\ufffd" * 6


def written(text="ab", **options):
    given = {"most": 10, "text": Text(tokenizer(), [3], options.pop("stops", ())), **options}
    one = Written([3], **given)
    for token in tokens(text):
        one.add(token, lambda token, top: (-1.5, [(token, -1.5)][:top]))
        if one.over:
            break
    return one


def test_why_a_text_ends():
    end = tokens("c")[0]
    one = written("abcd", ends=frozenset([end]))
    assert (one.finish, one.text.text, len(one.new)) == (ENDED, "ab", 3)
    one = written("abcd", most=2)
    assert (one.finish, one.text.text) == (LENGTH, "ab")
    one = written("abcd", stops=["bc"], eager=True)
    assert (one.finish, one.text.text, one.pieces) == (STOPPED, "a", ["a", "", ""])
    one = written("abcd", until=time.monotonic())
    assert (one.finish, len(one.new)) == (LENGTH, 1)
    assert written("abcd").finish is None


def test_tokens_are_told():
    one = written("ab", told=True, eager=True, top=1, special=frozenset(tokens("b")))
    expected = []
    for text, token, special in zip("ab", tokens("ab"), (False, True), strict=True):
        log = {"id": token, "text": text, "logprob": -1.5}
        expected.append({**log, "special": special, "top": [log]})
    assert one.tokens == expected


def test_penalties_count_what_was_written():
    scores = torch.tensor([3.0, 2.5, 2.4])
    assert Chooser(frequency_penalty=0.3).choose([0, 0], [0], scores) == 0
    assert Chooser(frequency_penalty=0.3).choose([0, 0], [0, 0], scores) == 1
    assert Chooser(presence_penalty=1.0).choose([1, 0], [0, 1], scores) == 2
    assert scores.tolist() == [3.0, 2.5, pytest.approx(2.4)]


def test_drawing_is_the_generators():
    scores = torch.zeros(50)
    first, second = (
        [Chooser(generator=generator).choose([], [], scores) for _ in range(20)]
        for generator in (torch.Generator().manual_seed(3), torch.Generator().manual_seed(3))
        if torch.rand(()) >= 0  # which draws from elsewhere meanwhile
    )
    assert first == second
    assert len(set(first)) > 5


@pytest.mark.parametrize("scores", [[torch.inf, torch.inf, 0.0], [-torch.inf] * 3, [torch.nan, 0.0, 0.0]])
def test_scores_of_which_none_can_be_drawn_are_the_requests_fault(scores):
    """As after a temperature of 1e-40; a GPU's `multinomial` would take the whole worker with it."""
    with pytest.raises(BadInputError, match="too extreme"):
        Chooser(generator=torch.Generator()).choose([], [], torch.tensor(scores))


@pytest.mark.parametrize(
    "parameters",
    [{"top_p": 0.7}, {"top_p": 0.7, "min_p": 0.05}, {"typical_p": 0.6}, {"typical_p": 0.6, "epsilon_cutoff": 0.01}],
)
def test_where_no_token_is_left_to_sort_it_is_the_requests_fault(parameters):
    """As after `suppress_tokens` of all that the model knows."""
    config, _ = tiny()[0]._prepare_generation_config(None, **{"do_sample": True, "top_k": 20, **parameters})
    processors = tiny()[0]._get_logits_processor(config, input_ids_seq_length=3)
    with pytest.raises(BadInputError, match="too extreme"):
        Chooser(processors, torch.Generator()).choose([5, 6, 7], [], torch.full((200,), -float("inf")))


@pytest.mark.parametrize(
    "parameters",
    [
        {"top_p": 0.7},
        {"top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.3, "renormalize_logits": True},
        {"typical_p": 0.6, "epsilon_cutoff": 0.01, "eta_cutoff": 0.01, "temperature": 0.5},
        {"top_p": 0.5, "top_k": 1},
        {"top_p": 0.5, "top_k": 0},
    ],
)
def test_sorting_few_tokens_leaves_what_sorting_all_of_them_does(parameters):
    ids, scores = [5, 6, 7], torch.randn(1, 200, generator=torch.Generator().manual_seed(1)) * 3
    config, _ = tiny()[0]._prepare_generation_config(None, **{"do_sample": True, "top_k": 20, **parameters})
    processors = tiny()[0]._get_logits_processor(config, input_ids_seq_length=3)
    numbers = torch.tensor([ids])
    expected = processors(numbers, scores)
    assert 0 < (~expected.isneginf()).sum() < 200
    torch.testing.assert_close(Chooser(processors)._processed(numbers, scores), expected)
