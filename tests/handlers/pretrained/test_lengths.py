"""What is needed of a text that is far too long: its first tokens, or its last, in the time that these take."""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.models import WordPiece

from handlers.pretrained import lengths

from .models import make_byte_tokenizer, make_tokenizer

# Made when they are used: transformers is imported for them.
TOKENIZERS = [cache(make_tokenizer), cache(make_byte_tokenizer)]
# Words, unknown ones of which each is one token to BERT's tokenizer, blanks that are none, characters of several bytes.
PARTS = st.sampled_from(["the rain ", "ada,", "x" * 150, " " * 300, "\n", "r\u00e4in ", "\U0001f327", "rain" * 20])
TEXTS = st.builds(lambda parts, times: "".join(parts) * times, st.lists(PARTS, max_size=6), st.integers(0, 60))


def tokens(tokenizer, text):
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


@pytest.mark.parametrize("make", TOKENIZERS, ids=["wordpiece", "bytes"])
@given(text=TEXTS, longest=st.integers(1, 40))
def test_the_tokens_are_those_of_the_whole_text(make, text, longest):
    tokenizer = make()
    whole = tokens(tokenizer, text)
    begin, end = (lengths.enough(tokenizer, text, longest, end=end) for end in (False, True))
    assert text.startswith(begin)
    assert text.endswith(end)
    assert tokens(tokenizer, begin)[:longest] == whole[:longest]
    assert tokens(tokenizer, end)[-longest:] == whole[-longest:]
    # Who is refused for a text that is too long would be for the whole of it, and nobody else is.
    assert (len(tokens(tokenizer, begin)) > longest) is (len(whole) > longest)


def test_a_long_word_that_is_cut_makes_no_text_too_long():
    """A word of more than 100 characters is one token to BERT's tokenizer, and of its first 90 each may be one."""
    tokenizer, longest = make_tokenizer(), 40
    inner = tokenizer.backend_tokenizer
    inner.model = WordPiece({"[UNK]": 0, "a": 1, "##a": 2}, unk_token="[UNK]")
    for size in range(1000, 4000, 7):  # one of them is where the text is first cut
        text = "a " * 30 + " " * size + "a" * 150
        assert len(tokens(tokenizer, lengths.enough(tokenizer, text, longest))) == 31


@pytest.mark.parametrize("end", [False, True])
def test_a_text_of_megabytes_is_not_made_tokens_of(end):
    read = []

    def counting(text, **options):
        read.append(len(text))
        return TOKENIZERS[1]()(text, **options)

    part = lengths.enough(counting, "a" * 5_000_000, 1024, end=end)
    assert sum(read) == len(part) < 20_000


def test_what_is_not_too_long_is_not_looked_at():
    def fail(*_, **__):
        raise AssertionError

    text = "the rain " * 100
    assert lengths.enough(fail, text, 128) is text
    assert lengths.enough(fail, 1000 * text, None) == 1000 * text
