import contextlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import handlers
from handlers import BadInputError
from handlers.batch.inputs import is_empty, numbers_to_tensor, require, row_value, rows_to_tensor


@pytest.mark.parametrize(
    ("row", "value"),
    [
        ({"body": b"x"}, b"x"),
        ({"data": b"x", "body": b"y"}, b"x"),
        ({"data": b"", "body": b"y"}, b"y"),
        ({"data": None, "body": [1]}, [1]),
        ({"data": 0, "body": [1]}, 0),
        ({"body": b""}, b""),
        ({"image": b"x"}, b"x"),
        ({"image": b""}, b""),
        ({"image": b"x", "target": b"1"}, None),
        ({"data": b"", "image": b"x"}, b""),
        ({}, None),
        ([1, 2], [1, 2]),
        (3, 3),
    ],
)
def test_the_input_of_a_row(row, value):
    assert row_value(row) == value


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {},
            "the request has no body, and is no form with a value: send an image; curl -d sends a form unless "
            "-H 'Content-Type: ...' says what it is",
        ),
        ({"body": b""}, "the request has no body: send an image"),
        (None, "the request has no body: send an image"),
        (
            {"image": b"x", "target": b"1"},
            "the request is a form without data or body, it has 'image', 'target': send an image as data",
        ),
        (
            {"Rain stops the final, and goes on for a long time": b""},
            "the request is a form with the field 'Rain stops the final, and goes on for a ...' alone, which is empty: "
            "send an image; curl -d sends a form unless -H 'Content-Type: ...' says what it is",
        ),
        (
            {f"f{index}": b"" for index in range(10)},
            "the request is a form without data or body, it has 'f0', 'f1', 'f2', 'f3', 'f4', 'f5', 'f6', 'f7' and 2 "
            "more: send an image as data",
        ),
    ],
)
def test_a_request_without_an_input(fields, message):
    with pytest.raises(BadInputError) as raised:
        require(row_value(fields or {}), fields, "an image")
    assert str(raised.value) == message
    require(0, fields, "an image")


@pytest.mark.parametrize(
    "name",
    [
        "BaseHandler",
        "VisionHandler",
        "ImageClassifier",
        "ObjectDetector",
        "ImageSegmenter",
        "TextHandler",
        "TextClassifier",
        "TextEmbedder",
        "TokenClassifier",
        "TextGenerator",
        "AudioHandler",
        "TensorHandler",
    ],
)
def test_every_handler_lists_the_fields_of_a_form_without_an_input(name, make_context):
    handler = getattr(handlers, name)()
    handler.device = torch.device("cpu")
    handler.context = make_context(requests=1)
    with pytest.raises(BadInputError, match="a form without data or body, it has 'image', 'target': send "):
        handler.preprocess([{"image": bytearray(b"x"), "target": bytearray(b"1")}])
    with pytest.raises(BadInputError, match="a form with the field 'text' alone, which is empty: send "):
        handler.preprocess([{"text": bytearray()}])
    with pytest.raises(BadInputError, match="the request has no body: send "):
        handler.preprocess([{"body": bytearray()}])


def test_the_only_field_of_a_form_is_the_input(make_context):
    handler = handlers.AudioHandler()
    context = make_context(requests=1, headers={0: {"sound": {"content-type": "application/json"}}})
    handler.context = context
    assert handler.preprocess([{"sound": [0.0, 0.5]}]).shape == (1, 1, 2)
    (one,) = handlers.batch.request.requests_of(context, [{"sound": [0.0, 0.5]}])
    assert one.content_type == "application/json"
    assert handlers.BaseHandler().preprocess([{"numbers": bytearray(b"[1, 2]")}]).tolist() == [[1, 2]]


def test_what_is_empty():
    assert all(is_empty(value) for value in (None, b"", bytearray(), "", memoryview(b"")))
    assert not any(is_empty(value) for value in (0, False, [], "0", b"0", {}))


@pytest.mark.parametrize(
    "data",
    [
        [[1, 2], [3, 4]],
        [1, 2.5],
        [True, False],
        [[]],
        torch.arange(4).reshape(2, 2),
        [torch.tensor(1.0), torch.tensor(2.0)],
        np.arange(4, dtype=np.float64),
        [1 + 2j],
    ],
)
def test_bare_values_become_what_as_tensor_makes_of_them(data):
    found, expected = rows_to_tensor(data, torch.device("cpu")), torch.as_tensor(data)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


def test_requests_become_float32():
    rows = [{"body": [1, 2]}, {"data": bytearray(b"[3, 4.5]")}, {"body": "[5, 6]"}, {"body": torch.tensor([7, 8])}]
    found = rows_to_tensor(rows, torch.device("cpu"))
    assert found.dtype == torch.float32
    assert found.tolist() == [[1, 2], [3, 4.5], [5, 6], [7, 8]]
    assert rows_to_tensor([{"body": 3}, {"body": b"4"}], None).tolist() == [3, 4]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (None, "has no body"),
        (b"", "has no body"),
        (b"\x89PNG", "not JSON"),
        ("hello", "not JSON"),
        ({"instances": [1]}, "JSON object .with instances."),
        ([1, "two"], r"element \[1\] is the text 'two'"),
        ([[1], [None]], r"element \[1\]\[0\] is null"),
        ([{"a": 1}], r"element \[0\] is an object"),
        ([[1, 2], [3]], r"element \[0\] has the shape \[2\], element \[1\] has \[1\]"),
        ([1, [2]], r"element \[0\] has the shape \[\], element \[1\] has \[1\]"),
        ([10**400], "more than 64 bits"),
        (["x" * 1000], r"x{40}\.\.\.'"),
        ("[" * 200 + "1" + "]" * 200, "nested more than 128 deep"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_what_is_wrong_is_named(body, reason):
    with pytest.raises(BadInputError, match=reason):
        rows_to_tensor([{"body": body}], torch.device("cpu"))


def test_inputs_that_do_not_stack():
    with pytest.raises(BadInputError, match="do not have one shape"):
        rows_to_tensor([{"body": [1]}, {"body": [1, 2]}], None)


# Whatever JSON a client sends: a float32 tensor, or an error that says what is wrong.
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.integers() | st.text(), st.lists, max_leaves=20))
def test_any_json_gives_a_tensor_or_a_reason(value):
    with contextlib.suppress(BadInputError):
        found = rows_to_tensor([{"body": json.dumps(value)}], None)
        assert found.dtype == torch.float32
        assert found.shape[0] == 1


def test_numbers_of_one_request():
    assert numbers_to_tensor([[1, 2]]).dtype == torch.float32
    with pytest.raises(BadInputError, match=r"element \[0\] is the text"):
        numbers_to_tensor(["a"])


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        ([[1, 2.5]], torch.float32, [[1.0, 2.5]]),
        ([0.1], torch.float64, [0.1]),
        ([1, 2], torch.bfloat16, [1.0, 2.0]),
        ([1, 2], torch.int64, [1, 2]),
        ([2**62 + 1], torch.int64, [2**62 + 1]),
        ([1.0, 2], torch.int32, [1, 2]),
        ([True, False], torch.int8, [1, 0]),
        ([255], torch.uint8, [255]),
        ([[2**16 - 1], [0]], torch.uint16, [[2**16 - 1], [0]]),
        ([2**32 - 1], torch.uint32, [2**32 - 1]),
        ([2**64 - 1, 2**63 + 1], torch.uint64, [2**64 - 1, 2**63 + 1]),
        ([2.0, 3], torch.uint64, [2, 3]),
        ([2**53 + 1, 2.0], torch.int64, [2**53 + 1, 2]),  # torch makes 2**53 of the first
        ([[-(2**63)], [1.0]], torch.int64, [[-(2**63)], [1]]),
        ([2.0, 2**64 - 1], torch.uint64, [2, 2**64 - 1]),
        ([2**53 + 1, 0.5], torch.float64, [2.0**53, 0.5]),  # the nearest one
        ([], torch.uint64, []),
        ([True, False], torch.bool, [True, False]),
        ([0, 1.0], torch.bool, [False, True]),
        (3, torch.int64, 3),
    ],
)
def test_numbers_become_the_type_that_is_asked_for(value, dtype, expected):
    found = numbers_to_tensor(value, dtype)
    assert found.dtype == dtype
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("value", "dtype", "wrong"),
    [
        ([1, 2.5], torch.int64, r"^2.5 is no int64 \(element \[1\]\)$"),
        ([[1, 2], [3, 300]], torch.uint8, r"^300 is no uint8 \(element \[1\]\[1\]\)$"),
        (2.5, torch.int64, "^2.5 is no int64$"),
        ([2**63, 0.0], torch.int64, r"^9223372036854775808 is no int64 \(element \[0\]\)$"),
        ([0.0, 10**50], torch.int64, r"^a whole number of more than 64 bits is no int64 \(element \[1\]\)$"),
        ([0, 256], torch.uint8, "256 is no uint8"),
        ([0, -1], torch.uint8, "-1 is no uint8"),
        ([2**16], torch.uint16, "65536 is no uint16"),
        ([-1], torch.uint64, "-1 is no uint64"),
        ([2**64], torch.uint64, "more than 64 bits"),
        ([2.0**64], torch.uint64, "no uint64"),
        ([[1], [2, 3]], torch.uint64, "not of equal lengths"),
        ([2**31], torch.int32, "2147483648 is no int32"),
        ([2**31 + 0.0], torch.int32, "2147483648.0 is no int32"),
        ([2.0**63], torch.int64, "no int64"),
        ([-(2.0**64)], torch.int64, "no int64"),
        ([float("nan")], torch.int64, "nan is no int64"),
        ([float("inf")], torch.int16, "inf is no int16"),
        ([2], torch.bool, "2 is no bool"),
        ([0.5], torch.bool, "0.5 is no bool"),
        ([2**70], torch.int64, "more than 64 bits"),
        (["1"], torch.int64, "element .0. is the text '1'"),
        ([[1], [1, 2]], torch.bool, "not of equal lengths"),
    ],
)
def test_no_number_becomes_another_one(value, dtype, wrong):
    with pytest.raises(BadInputError, match=wrong):
        numbers_to_tensor(value, dtype)


_WHOLE = [torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32, torch.uint64]
_NUMBERS = st.one_of(
    st.integers(-(2**64), 2**65), st.integers(-200, 300), st.floats(), st.integers(-(2**60), 2**60).map(float)
)


# Of numbers of both kinds: each as it is, or an error if one of them is none of the type's.
@given(st.lists(_NUMBERS, min_size=1, max_size=6), st.sampled_from(_WHOLE))
def test_whole_numbers_stay_what_they_are_beside_fractions(value, dtype):
    limits = torch.iinfo(dtype)
    fits = [limits.min <= one <= limits.max and one == int(one) for one in value]
    if all(fits):
        assert numbers_to_tensor([value], dtype).tolist() == [value]
    else:
        with pytest.raises(BadInputError):
            numbers_to_tensor([value], dtype)
