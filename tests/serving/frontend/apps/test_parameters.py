"""Parameters of the management API, in themselves."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.frontend.apps.parameters import Parameters, registration_of, share_of
from serving.frontend.engine import Registration, Share
from serving.frontend.errors import BadRequestError

_ALL = {
    "url": "m.mar",
    "model_name": "m",
    "handler": "h:f",
    "runtime": "python3",
    "batch_size": 4,
    "max_batch_delay": 0,
    "initial_workers": 2,
    "response_timeout": 7,
    "startup_timeout": 8,
    "synchronous": False,
    "s3_sse_kms": True,
}
_MEANT = Registration("m.mar", "m", "h:f", "python3", 4, 0, 2, 7, 8, False, True)
_JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=4)


def test_a_query_and_a_json_body_mean_the_same() -> None:
    query = "&".join(
        f"{name}={str(value).lower() if isinstance(value, bool) else value}" for name, value in _ALL.items()
    )
    assert registration_of(Parameters.of_query(query.encode())) == _MEANT
    assert registration_of(Parameters.of_json(json.dumps(_ALL).encode())) == _MEANT
    assert registration_of(Parameters.of_json(json.dumps({k: str(v) for k, v in _ALL.items()}).encode())) == _MEANT


def test_what_is_not_said_is_left_open() -> None:
    assert registration_of(Parameters.of_query(b"url=m.mar&batch_size=&synchronous=")) == Registration("m.mar")
    assert registration_of(Parameters.of_json(b'{"url": "m.mar", "handler": null}')) == Registration("m.mar")


@pytest.mark.parametrize(
    "name", [name + end for name in _ALL for end in ("s", " ", "\0", "_")] + ["", "URL", "x" * 10_000]
)
def test_an_unknown_parameter_is_named_and_so_are_the_known_ones(name: str) -> None:
    given = Parameters({"url": "m.mar", name: "1"})
    with pytest.raises(BadRequestError) as caught:
        registration_of(given)
    message = caught.value.message
    assert message.startswith("there is no parameter ")
    assert message.endswith(f"this call knows {', '.join(given_name for given_name in _ALL)}")
    assert len(message) < 500
    if len(name) < 100 and name[:-1] in _ALL:
        assert f"did you mean {name[:-1]}?" in message


def test_what_is_documented_and_read_by_nobody_is_let_pass() -> None:
    given = Parameters({"min_worker": "2", "timeout": "-1"})
    assert given.only(("min_worker",), ("timeout",)).number("min_worker") == 2
    with pytest.raises(BadRequestError, match="there is no parameter 'timeout'; this call knows min_worker"):
        given.only(("min_worker",))
    with pytest.raises(BadRequestError, match="there is no parameter 'min_worker'; this call knows none"):
        given.only(())


def test_of_equal_parameters_the_first_counts() -> None:
    assert registration_of(Parameters.of_query(b"url=a&url=b")).url == "a"


@pytest.mark.parametrize("name", [name for name, value in _ALL.items() if type(value) is int])
@pytest.mark.parametrize("value", ["x", "1.5", "-1", "1e3", "99999999999", " ", "٣", 1.5, True, [], {}, 10**400])
def test_a_number_that_is_none_is_named(name: str, value: Any) -> None:
    with pytest.raises(BadRequestError, match=rf"the parameter {name} must be a whole number from [01] to 2147483647"):
        registration_of(Parameters({"url": "m", name: value}))


@pytest.mark.parametrize("name", ["synchronous", "s3_sse_kms"])
@pytest.mark.parametrize("value", ["maybe", "1", 1, [], "truetrue"])
def test_a_flag_that_is_none_is_named(name: str, value: Any) -> None:
    with pytest.raises(BadRequestError, match=f"the parameter {name} must be true or false"):
        registration_of(Parameters({"url": "m", name: value}))


@pytest.mark.parametrize("name", ["url", "model_name", "handler", "runtime"])
def test_a_text_that_is_none_is_named(name: str) -> None:
    with pytest.raises(BadRequestError, match=f"the parameter {name} must be a text, not 1"):
        registration_of(Parameters({"url": "m", name: 1}))


@given(st.dictionaries(st.sampled_from(sorted(_ALL)), _JSON))
def test_whatever_a_json_body_says_it_is_a_registration_or_a_bad_request(document: dict[str, Any]) -> None:
    try:
        found = registration_of(Parameters.of_json(json.dumps(document).encode()))
    except BadRequestError:
        return
    assert found.url == document["url"]


@given(st.binary())
def test_whatever_comes_is_parameters_or_a_bad_request(body: bytes) -> None:
    for read in (Parameters.of_json, Parameters.of_query):
        try:
            registration_of(read(body))
        except BadRequestError:
            continue


def test_json_that_nests_too_deeply_is_refused() -> None:
    with pytest.raises(BadRequestError, match="not JSON"):
        Parameters.of_json(b"[" * 200_000)


@pytest.mark.parametrize(
    ("query", "share"),
    [
        (b"percent=5", Share(5)),
        (b"percent=0&shadow=", Share(0)),
        (b"percent=100&shadow=true", Share(100, shadow=True)),
        (b"percent=5&sticky_header=X-User,%20x-session,", Share(5, sticky=("x-user", "x-session"))),
        (b"percent=5&sticky_header=", Share(5, sticky=())),
    ],
)
def test_a_share_is_understood(query: bytes, share: Share) -> None:
    assert share_of(Parameters.of_query(query)) == share


@pytest.mark.parametrize(
    ("query", "text"),
    [
        (b"", "^Parameter percent is required"),
        (b"percent=", "^Parameter percent is required"),
        (b"percent=101", "the parameter percent must be a whole number from 0 to 100, not '101'"),
        (b"percent=-1", "percent must be a whole number"),
        (b"percent=0.5", "percent must be a whole number"),
        (b"percent=5&shadow=1", "the parameter shadow must be true or false"),
        (b"percent=5&sticky_header=a%20b", "the parameter sticky_header must name headers, not 'a b'"),
        (b"percent=5&sticky_header=" + b"x" * 101, "sticky_header must name headers"),
        (b"percent=5&sticky_header=" + b"x," * 9, "sticky_header must name 8 headers at the most"),
    ],
)
def test_a_share_that_is_none_is_named(query: bytes, text: str) -> None:
    with pytest.raises(BadRequestError, match=text):
        share_of(Parameters.of_query(query))
