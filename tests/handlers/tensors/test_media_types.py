"""The form that a body has, and the form that its reply may have."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers import NotAcceptableError
from handlers.tensors.media_types import BINARY, JSON, NPY, NPZ, SAFETENSORS, choose, form_of

FORMS = [JSON, SAFETENSORS, NPY]


@pytest.mark.parametrize(
    ("content_type", "form"),
    [
        ("application/json", JSON),
        ("Application/JSON; charset=utf-8", JSON),
        ("application/vnd.api+json", JSON),
        ("text/json", JSON),
        ("application/x-npy", NPY),
        ("application/npy;version=1", NPY),
        ("application/x-npz", NPZ),
        ("application/vnd.safetensors", SAFETENSORS),
        ("application/x-safetensors", SAFETENSORS),
        ("application/safetensors", SAFETENSORS),
        (" application/octet-stream ", BINARY),
        ("image/png", "image/png"),
        ("", ""),
    ],
)
def test_the_form_of_a_body(content_type, form):
    assert form_of(content_type) == form


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("application/x-npy", NPY),
        ("Application/X-NPY ; Q=0.5", NPY),
        ("application/json;q=0.5, application/x-npy", NPY),
        ("application/json;q=0.5, application/x-npy;q=0.4", JSON),
        ("application/json;q=0, */*;q=0.1", SAFETENSORS),
        ("*/*, application/json;q=0.9", SAFETENSORS),
        ("application/*;q=0.2, application/x-npy;q=0.1", JSON),
        ("text/html, application/xhtml+xml, */*;q=0.8", JSON),
        ("application/x-npy;profile=a;q=1", NPY),
        ("nonsense", JSON),
        ("application/x-npy;q=high", JSON),
        ("application/x-npy;q=2", JSON),
        ("application/x-npy;q=nan", JSON),
        (",,;", JSON),
    ],
)
def test_the_form_of_a_reply(accept, form):
    assert choose(accept, FORMS) == (form, form)


def test_a_reply_has_the_name_that_it_was_asked_for_by():
    assert choose("application/vnd.safetensors", FORMS) == (SAFETENSORS, "application/vnd.safetensors")
    assert choose("application/npy;q=0.3, application/x-npy", FORMS) == (NPY, NPY)


@pytest.mark.parametrize("accept", ["text/html", "application/x-npz", "application/json;q=0", "image/*", "*/*;q=0"])
def test_what_cannot_be_served_is_refused_with_what_can(accept):
    with pytest.raises(NotAcceptableError) as caught:
        choose(accept, FORMS)
    assert caught.value.status == 406
    assert str(caught.value) == f"the reply can be {', '.join(FORMS)}; the request accepts only {accept}"


def test_a_long_header_is_not_repeated():
    with pytest.raises(NotAcceptableError) as caught:
        choose("text/html" + "a" * 10_000, FORMS)
    assert len(str(caught.value)) < 300


# Whatever the header holds, it chooses one of the forms or is refused; nothing else is raised.
@settings(deadline=None, max_examples=60)
@given(st.one_of(st.text(), st.lists(st.sampled_from([*FORMS, "*/*", ";q=", "0.5", ",", "1e9", "/"])).map("".join)))
def test_any_header(accept):
    with contextlib.suppress(NotAcceptableError):
        assert choose(accept, FORMS).form in FORMS
