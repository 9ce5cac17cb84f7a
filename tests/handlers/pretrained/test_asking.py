"""Requests and their parameters."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handlers.errors import BadInputError, LoadError
from handlers.pretrained import asking
from handlers.pretrained.asking import checked, defaults, read_request

KNOWN = {
    "top_k": asking.count(5),
    "limit": asking.count(None, unlimited=True),
    "whole": asking.flag(False),
    "share": asking.share(0.5),
    "kind": asking.choice("a", "a", "b"),
    "name": asking.text(None),
    "names": asking.texts(),
}


def read(data):
    return read_request(data, {"body": data}, KNOWN, {"top_k": 5}, "a text")


@pytest.mark.parametrize(
    ("data", "inputs", "single"),
    [
        ("a text", ["a text"], True),
        (b"a text", [b"a text"], True),
        (bytearray(b'{"inputs": "a"}'), ["a"], True),
        ('  {"inputs": ["a", "b"]}', ["a", "b"], False),
        ({"text": "a"}, [{"text": "a"}], True),
        (["a", "b"], ["a", "b"], False),
        ("{no json", ["{no json"], True),
        (b"{\xff", [b"{\xff"], True),
        ({"inputs": {"question": "q"}}, [{"question": "q"}], True),
    ],
)
def test_forms(data, inputs, single):
    asked = read(data)
    assert (list(asked.inputs), asked.single) == (inputs, single)
    assert asked.parameters == {"top_k": 5}


@pytest.mark.parametrize(
    "data", [None, b"", "", [], {"inputs": []}, {"inputs": None}, {"inputs": "a", "parameters": [1]}]
)
def test_what_is_no_request(data):
    with pytest.raises(BadInputError):
        read(data)


def test_parameters_win_over_defaults():
    assert read({"inputs": "a", "parameters": {"top_k": 1, "limit": None}}).parameters == {"top_k": 1, "limit": None}


@pytest.mark.parametrize(
    "given_",
    [
        {"top_k": 0},
        {"top_k": True},
        {"top_k": None},
        {"top_k": 1.5},
        {"limit": -1},
        {"whole": 1},
        {"share": 1.5},
        {"share": True},
        {"kind": "c"},
        {"kind": []},
        {"name": ""},
        {"names": "a"},
        {"names": [1]},
        {"other": 1},
        {"top_k": 10**30},
    ],
)
def test_wrong_values(given_):
    (name,) = given_
    with pytest.raises(BadInputError, match=name):
        checked(given_, KNOWN)
    if name != "other":
        with pytest.raises(LoadError, match=rf"handler\.{name}"):
            defaults(given_, KNOWN)


def test_defaults():
    assert defaults({"top_k": 2, "names": ["x"], "unrelated": 1}, KNOWN) == {
        "top_k": 2,
        "limit": None,
        "whole": False,
        "share": 0.5,
        "kind": "a",
        "name": None,
        "names": ["x"],
    }


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["inputs", "parameters", *KNOWN]), inner)
    ),
    max_leaves=8,
)


@given(JSON | st.binary(max_size=20))
def test_any_body_is_read_or_refused(data):
    try:
        asked = read(data)
    except BadInputError:
        return
    assert asked.inputs
    assert all(KNOWN[name].fits(value) for name, value in asked.parameters.items())
