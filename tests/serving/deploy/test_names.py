"""Names and amounts of Kubernetes."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archive_tool.errors import InputError
from archive_tool.metadata.names import model_name_problem
from serving.deploy import names

# RFC 1035, as a service must be called.
SERVICE = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_VALUE = re.compile(r"(([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9])?")


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_\-.]{0,199}", fullmatch=True))
def test_every_model_has_a_name_in_kubernetes(model: str) -> None:
    assert model_name_problem(model) is None
    made = names.name_of(model)
    assert SERVICE.fullmatch(made)
    assert names.checked_name(made) == made
    assert SERVICE.fullmatch(f"{made}-predictor-00001")


@pytest.mark.parametrize(
    ("model", "name"),
    [("mnist", "mnist"), ("Bert_Base.v2", "bert-base-v2"), ("2024", "model-2024"), ("a__", "a"), ("x-.-y", "x-y")],
)
def test_the_name_is_like_the_models(model: str, name: str) -> None:
    assert names.name_of(model) == name


def test_long_names_that_begin_alike_stay_apart() -> None:
    one, two = names.name_of("m" * 60 + "1"), names.name_of("m" * 60 + "2")
    assert one != two
    assert {len(one), len(two)} == {names.MOST_NAME}


@pytest.mark.parametrize("text", ["", "Mnist", "1a", "a_b", "a.b", "-a", "a-", "a" * 41, "a\n", "ä"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not a name in Kubernetes"):
        names.checked_name(text)


@pytest.mark.parametrize("text", ["", "A", "a.b", "-a", "a" * 64, "a\n"])
def test_what_is_no_namespace_is_refused(text: str) -> None:
    assert names.checked_namespace("1-team") == "1-team"
    with pytest.raises(InputError, match="not a namespace"):
        names.checked_namespace(text)


@pytest.mark.parametrize("text", ["", "A", "a..b", "-a", "a.", "a" * 254, "a/b"])
def test_what_no_secret_can_be_called_is_refused(text: str) -> None:
    assert names.checked_reference("secret", "a.b-c") == "a.b-c"
    with pytest.raises(InputError, match="no secret can be called"):
        names.checked_reference("secret", text)


@given(st.text(max_size=80))
def test_any_version_is_a_label(text: str) -> None:
    assert LABEL_VALUE.fullmatch(names.label_value(text))


def test_a_version_stays_itself_where_it_can() -> None:
    assert names.label_value("1.0-rc_1") == "1.0-rc_1"
    assert names.label_value(" 2 (new)") == "2--new"


@pytest.mark.parametrize("text", ["release=prometheus", "example.com/team=Vision_1.0", "empty=", "A=" + "b" * 63])
def test_labels_are_read(text: str) -> None:
    key, _, value = text.partition("=")
    assert names.label(text) == (key, value)


@pytest.mark.parametrize(
    "text",
    ["", "a", "=b", "a=b=c", "a b=c", "/a=b", "-a=b", "x_y/a=b", "a/b/c=d", "a=" + "b" * 64, "a" * 64 + "=b", "a=-b"],
)
def test_what_is_no_label_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not a label"):
        names.label(text)


@pytest.mark.parametrize(
    ("what", "text"),
    [("cpu", "4"), ("cpu", "0.5"), ("cpu", "500m"), ("memory", "4Gi"), ("memory", "1.5Gi"), ("memory", "512M")],
)
def test_amounts_are_taken_as_they_stand(what: str, text: str) -> None:
    assert names.quantity(what, text) == text


@pytest.mark.parametrize(
    ("what", "text"),
    [
        *(("cpu", text) for text in ("", "0", "0.0", "-1", "1e3", "4 cores", "0.5m", "4Gi", "١")),
        # Half a byte, four bytes, and what no reader knows.
        *(("memory", text) for text in ("512m", "4", "4gi", "4GB", "0Gi", "", "-1Gi", "Gi")),
    ],
)
def test_what_is_no_amount_is_refused(what: str, text: str) -> None:
    with pytest.raises(InputError, match=f"not an amount of {what}"):
        names.quantity(what, text)
