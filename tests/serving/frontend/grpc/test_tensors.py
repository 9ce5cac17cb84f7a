"""Tensors between gRPC's message and JSON."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.frontend.errors import InternalError
from serving.frontend.grpc import messages
from serving.frontend.grpc.tensors import FIELDS, request_body, response_of

VALUES: dict[str, Any] = {
    "BOOL": st.booleans(),
    "INT32": st.integers(-(2**31), 2**31 - 1),
    "INT64": st.integers(-(2**63), 2**63 - 1),
    "UINT32": st.integers(0, 2**32 - 1),
    "UINT64": st.integers(0, 2**64 - 1),
    "FP32": st.floats(width=32, allow_nan=False),
    "FP64": st.floats(allow_nan=False),
}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def request(datatype: str, data: list[Any]) -> Any:
    made = messages.message("org.pytorch.serve.grpc.openinference.ModelInferRequest")(model_name="m", id="7")
    tensor = made.inputs.add(name="x", datatype=datatype, shape=[len(data)])
    if datatype in FIELDS:
        getattr(tensor.contents, FIELDS[datatype]).extend(data)
    return made


@given(
    st.sampled_from(sorted(VALUES)).flatmap(lambda kind: st.tuples(st.just(kind), st.lists(VALUES[kind], max_size=5)))
)
def test_what_goes_in_comes_out(pair: tuple[str, list[Any]]) -> None:
    datatype, data = pair
    sent = json.loads(request_body(request(datatype, data)))
    assert sent == {
        "id": "7",
        "model_name": "m",
        "inputs": [{"name": "x", "shape": [len(data)], "datatype": datatype, "data": data}],
    }
    answer = {"id": "7", "model_name": "m", "model_version": "1.0", "outputs": sent["inputs"]}
    tensor = response_of(json.dumps(answer).encode()).outputs[0]
    assert list(getattr(tensor.contents, FIELDS[datatype])) == data
    assert (tensor.name, tensor.datatype, list(tensor.shape)) == ("x", datatype, [len(data)])


def test_bytes_are_base64_on_their_way_in_and_json_on_their_way_out() -> None:
    assert json.loads(request_body(request("BYTES", [b"ab\xff"])))["inputs"][0]["data"] == ["YWL/"]
    output = {"name": "y", "datatype": "BYTES", "shape": [2], "data": ["ü", {"a": 1}]}
    answer = {"id": "", "model_name": "m", "model_version": "1", "outputs": [output]}
    contents = response_of(json.dumps(answer).encode()).outputs[0].contents
    assert list(contents.bytes_contents) == ['"ü"'.encode(), b'{"a":1}']


def test_a_datatype_without_a_field_has_no_data() -> None:
    assert "data" not in json.loads(request_body(request("FP16", [])))["inputs"][0]
    assert math.isnan(json.loads(request_body(request("FP32", [math.nan])))["inputs"][0]["data"][0])


WHOLE: dict[str, Any] = {"id": "", "model_name": "m", "model_version": "1", "outputs": []}
OUTPUT: dict[str, Any] = {"name": "y", "datatype": "INT32", "shape": [1], "data": [1]}


@pytest.mark.parametrize(
    "document",
    [
        *({key: value for key, value in WHOLE.items() if key != missing} for missing in WHOLE),
        *(WHOLE | {"outputs": [{k: v for k, v in OUTPUT.items() if k != missing}]} for missing in OUTPUT),
        *(WHOLE | {"outputs": [OUTPUT | wrong]} for wrong in ({"data": [2**31]}, {"data": ["a"]}, {"shape": ["a"]})),
        *(WHOLE | {"outputs": [OUTPUT | wrong]} for wrong in ({"data": None}, {"name": 5}, {"data": 5})),
        WHOLE | {"id": 7},
        WHOLE | {"outputs": 5},
        WHOLE | {"outputs": [5]},
        [],
        None,
    ],
)
def test_what_is_no_response_is_told(document: Any) -> None:
    with pytest.raises(InternalError, match="no inference response of the Open Inference Protocol: "):
        response_of(json.dumps(document).encode())


@settings(max_examples=50)
@given(
    JSON.map(lambda one: json.dumps(one).encode())
    | st.binary()
    | JSON.map(lambda o: json.dumps(WHOLE | {"outputs": o}).encode())
    | JSON.map(lambda o: json.dumps(WHOLE | {"outputs": [OUTPUT | {"data": o}]}).encode())
)
def test_any_answer_is_read_or_refused(body: bytes) -> None:
    with contextlib.suppress(InternalError):
        response_of(body).SerializeToString()
