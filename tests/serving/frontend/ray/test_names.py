"""Routes and applications of versions."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from serving.frontend.errors import ModelError
from serving.frontend.ray import names

PLAIN = st.text("abzAZ09._-", min_size=1, max_size=8)


def test_the_default_version_has_the_short_route() -> None:
    assert names.route("mnist", "1.0", default=True) == "/predictions/mnist"
    assert names.route("mnist", "1.0", default=False) == "/predictions/mnist/1.0"
    assert names.application("mnist", "1.0") == "mnist--1.0"


@pytest.mark.parametrize("text", ["", "a b", "a/b", "a'b", 'a"b', "a{b}", "ä", "a\nb", "a%20b", ".", ".."])
def test_what_would_end_a_word_of_haproxys_configuration_is_refused(text: str) -> None:
    with pytest.raises(ModelError, match="route on Ray Serve"):
        names.check(text, "1.0")
    with pytest.raises(ModelError, match="route on Ray Serve"):
        names.check("mnist", text)


@pytest.mark.parametrize("name", ["a--b", "a-", "-"])
def test_a_name_that_cannot_be_told_from_its_version_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match="told from its version"):
        names.check(name, "1.0")


@given(st.tuples(PLAIN, PLAIN), st.tuples(PLAIN, PLAIN))
def test_two_versions_never_have_one_application_or_route(one: tuple[str, str], other: tuple[str, str]) -> None:
    for pair in (one, other):
        try:
            names.check(*pair)
        except ModelError:
            assume(False)
    assume(one != other)
    assert names.application(*one) != names.application(*other)
    assert names.FRONT not in (names.application(*one), names.application(*other))
    for first, second in itertools.product((True, False), repeat=2):
        if one[0] == other[0] and first and second:
            continue  # one of them is the default one
        assert names.route(*one, default=first) != names.route(*other, default=second)
