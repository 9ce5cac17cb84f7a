"""Requests and replies of the Open Inference Protocol."""

import contextlib
import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from handlers import BadInputError
from handlers.tensors.codecs import from_elements, to_elements
from handlers.tensors.open_inference import DATATYPES, InferenceRequest, is_request, join, read, read_binary, write

IN_JSON = [name for name in DATATYPES if name not in ("FP16", "BF16")]
HEAD = {"model_name": "m", "model_version": "1.0", "id": "7"}


def one(**values):
    entry = {"name": "x", "shape": [2, 2], "datatype": "FP32", "data": [1, 2.5, -3, 4], **values}
    return {"inputs": [{key: value for key, value in entry.items() if value is not None}]}


def binary(document, blob=b""):
    text = json.dumps(document).encode()
    return text + blob, str(len(text))


@st.composite
def tensors(draw, names=tuple(DATATYPES)):
    """Draw finite numbers of every type, the extremes among them."""
    dtype = DATATYPES[draw(st.sampled_from(names))]
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    count = int(np.prod(shape))
    if dtype is torch.bool:
        numbers = st.integers(0, 1)
    elif dtype.is_floating_point:
        numbers = st.floats(width=16, allow_nan=False, allow_infinity=False)
    else:
        low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max
        numbers = st.one_of(st.integers(low, high), st.sampled_from([low, high]))
    values = draw(st.lists(numbers, min_size=count, max_size=count))
    if dtype is torch.bfloat16:
        return torch.tensor(values, dtype=dtype).reshape(shape)
    kind = str(dtype).removeprefix("torch.")
    return torch.from_numpy(np.array(values, dtype=kind).reshape(shape))


def same(given_tensor, other):
    return (
        given_tensor.dtype == other.dtype
        and given_tensor.shape == other.shape
        and (to_elements(given_tensor) == to_elements(other))
    )


def as_request(document):
    """Return a reply, sent back as a request."""
    return json.loads(json.dumps(document))["outputs"]


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text(min_size=1, max_size=4), tensors(IN_JSON), min_size=1, max_size=3))
def test_tensors_in_json_there_and_back(outputs):
    document, blob = write(InferenceRequest({}), outputs, HEAD)
    assert blob == b""
    assert {key: document[key] for key in HEAD} == HEAD
    found = read({"id": "7", "inputs": as_request(document)})
    assert found.id == "7"
    assert list(found.inputs) == list(outputs)
    assert all(same(found.inputs[name], tensor) for name, tensor in outputs.items())


@settings(deadline=None, max_examples=60)
@given(st.dictionaries(st.text(min_size=1, max_size=4), tensors(), min_size=1, max_size=3), st.booleans())
def test_tensors_as_binary_data_there_and_back(outputs, asked):
    request = InferenceRequest({}, binary=True) if asked else InferenceRequest({})
    document, blob = write(request, outputs, HEAD, binary=not asked)
    body, length = join(document, blob)
    assert json.loads(body[:length]) == document
    again = json.dumps({"inputs": as_request(document)}).encode()
    found = read_binary(bytearray(again + body[length:]), str(len(again)))
    assert list(found.inputs) == list(outputs)
    assert all(same(found.inputs[name], tensor) for name, tensor in outputs.items())


def test_data_may_be_nested_and_be_beside_binary_data():
    request = one(data=[[1, 2.5], [-3, 4]])
    request["inputs"].append({"name": "y", "shape": [3], "datatype": "INT16", "parameters": {"binary_data_size": 6}})
    body, length = binary(request, b"\1\0\xff\xff\0\x80")
    found = read_binary(body, length).inputs
    assert found["x"].tolist() == [[1, 2.5], [-3, 4]]
    assert same(found["y"], torch.tensor([1, -1, -32768], dtype=torch.int16))


def test_what_a_request_says_of_its_reply():
    request = read(
        one() | {
            "id": "a",
            "parameters": {"binary_data_output": True, "other": 1},
            "outputs": [{"name": "q", "parameters": {"binary_data": False}}, {"name": "p"}],
        }
    )  # fmt: skip
    assert (request.id, request.binary, request.outputs) == ("a", True, {"q": False, "p": None})
    given_outputs = {"p": torch.tensor([1.5]), "q": torch.tensor([True]), "r": torch.ones(3)}
    document, blob = write(request, given_outputs, HEAD)
    assert document["outputs"] == [
        {"name": "q", "shape": [1], "datatype": "BOOL", "data": [True]},
        {"name": "p", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}},
    ]
    assert blob == torch.tensor([1.5]).numpy().tobytes()
    with pytest.raises(BadInputError, match="the model has no output 'q'; it gives 'r'"):
        write(request, {"r": torch.ones(1)}, HEAD)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_outputs_are_fp32_in_json_and_themselves_as_binary_data(dtype):
    outputs = {"y": torch.tensor([[0.1, -2]], dtype=dtype)}
    (in_json,) = write(InferenceRequest({}), outputs, HEAD)[0]["outputs"]
    assert in_json == {"name": "y", "shape": [1, 2], "datatype": "FP32", "data": outputs["y"].flatten().tolist()}
    (as_bytes,) = write(InferenceRequest({}), outputs, HEAD, binary=True)[0]["outputs"]
    assert as_bytes["datatype"] == {torch.float16: "FP16", torch.bfloat16: "BF16"}[dtype]


def test_an_output_that_the_protocol_does_not_have():
    with pytest.raises(TypeError, match=r"'y' as torch\.complex64"):
        write(InferenceRequest({}), {"y": torch.ones(1, dtype=torch.complex64)}, HEAD)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ([], "the request is no JSON object: send "),
        ({}, "'inputs' must be a list with at least one tensor"),
        ({"inputs": []}, "'inputs' must be a list with at least one tensor"),
        ({"inputs": {}}, "'inputs' must be a list with at least one tensor"),
        ({"inputs": [1]}, "input 0 is no JSON object"),
        (one(name=None), "input 0 has no name"),
        (one(name=3), "input 0 has no name"),
        (one(datatype="BYTES", data=["a"]), "the input 'x' is of the datatype BYTES: the model takes numbers"),
        (one(datatype="FLOAT"), "the input 'x' has the datatype 'FLOAT': it may be BOOL, UINT8"),
        (one(datatype=None), "the input 'x' has the datatype None"),
        (one(datatype=[]), "the input 'x' has the datatype \\[\\]"),
        (one(datatype="FP16"), "the datatype FP16, which has no form in JSON: send it as binary data"),
        (one(datatype="BF16"), "the datatype BF16, which has no form in JSON"),
        (one(shape=None), "the input 'x' has the shape None: it must be a list of sizes"),
        (one(shape=[2, -2]), "it must be a list of sizes"),
        (one(shape=[True, 4]), "it must be a list of sizes"),
        (one(shape=[2.0, 2]), "it must be a list of sizes"),
        (one(shape=[2**64]), "it must be a list of sizes"),
        (one(shape=[3]), r"the input 'x' has the shape \[3\], and its data \[4\]"),
        (one(shape=[0, 2**62, 2**62], data=[]), "cannot have the shape"),
        (one(shape=[4], data=[[1, 2], [3, 4]]), r"the shape \[4\], and its data \[2, 2\]"),
        (one(data=None), "the input 'x' has no data"),
        (one(data="1234"), "the input 'x' has no data"),
        (one(data=[1, 2, 3, "4"]), r"the input 'x': element \[3\] is the text '4'"),
        (one(data=[1, [2], 3, 4]), "the input 'x': the lists are not of equal lengths"),
        (one(datatype="UINT8"), "the input 'x': 2.5 is no uint8"),
        (one(datatype="INT8", data=[1, 2, 3, 128]), "128 is no int8"),
        (one(datatype="UINT32", data=[1, 2, 3, 2**32]), "4294967296 is no uint32"),
        (one(datatype="UINT64", data=[1, 2, 3, -1]), "-1 is no uint64"),
        (one(datatype="UINT64", data=[1, 2, 3, 2**64]), "more than 64 bits"),
        (one(datatype="UINT64", data=[[1], [2, 3]]), "not of equal lengths"),
        (one(datatype="INT64", data=[1, 2, 3, 2**63]), "more than 64 bits"),
        (one(datatype="BOOL", data=[True, False, 2, 1]), "2 is no bool"),
        (one(parameters={"binary_data_size": 0}), "has both data and binary_data_size"),
        (one(data=None, parameters={"binary_data_size": 16}), "binary_data_size 16, and there are 0 bytes left"),
        (one(data=None, parameters={"binary_data_size": "16"}), "binary_data_size '16'"),
        (one(data=None, parameters={"binary_data_size": 0}), "'x' has 0 bytes of elements; float32 of the shape"),
        (one(parameters=[]), "'parameters' of the input 'x' is no JSON object"),
        ({"inputs": one()["inputs"] * 2}, "there are two inputs 'x'"),
        (one() | {"id": 7}, "'id' must be a string"),
        (one() | {"outputs": ["y"]}, "output 0 is no JSON object"),
        (one() | {"outputs": [{"name": 1}]}, "output 0 has no name"),
        (one() | {"outputs": [{"name": "y", "parameters": {"binary_data": 1}}]}, "'binary_data' of output 0 must be"),
        (one() | {"parameters": {"binary_data_output": "yes"}}, "'binary_data_output' of the request must be true or"),
    ],
)
def test_what_is_no_request(document, reason):
    with pytest.raises(BadInputError, match=reason):
        read(document)


@pytest.mark.parametrize(
    ("length", "blob", "reason"),
    [
        ("", b"", "Inference-Header-Content-Length is ''"),
        ("-1", b"", "is '-1', and the body has"),
        ("0", b"", "is '0', and the body has"),
        ("1e3", b"", "is '1e3'"),
        ("²", b"", "is '²'"),
        ("9" * 5000, b"", "and the body has"),
        ("10", b"", "the body is not JSON"),
        (None, b"12345", "behind the JSON there are 5 bytes more than the inputs take"),
    ],
)
def test_what_is_no_binary_request(length, blob, reason):
    body, right = binary(one(), blob)
    with pytest.raises(BadInputError, match=reason):
        read_binary(body, right if length is None else length)


def test_a_bool_that_is_none():
    document = one(datatype="BOOL", data=None, shape=[3], parameters={"binary_data_size": 3})
    body, length = binary(document, b"\0\1\2")
    with pytest.raises(BadInputError, match="the input 'x' has the byte 2 for a bool"):
        read_binary(body, length)


@pytest.mark.parametrize(
    ("document", "names", "expected"),
    [
        (one(), ["x"], True),
        (one(), ["inputs"], True),
        ({"inputs": [[1, 2]]}, ["inputs"], False),
        ({"inputs": [[1, 2]]}, ["x"], True),
        ({"inputs": 3}, ["inputs"], False),
        ({"instances": []}, ["x"], False),
        ([], ["x"], False),
    ],
)
def test_which_json_is_a_request(document, names, expected):
    assert is_request(document, names) is expected


KEYS = st.sampled_from(
    ["name", "shape", "datatype", "data", "parameters", "binary_data_size", "inputs", "outputs", "id"]
)
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(["x", "FP32", "INT8", "UINT64"])),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=5)),
    max_leaves=12,
)


# Whatever JSON comes, and whatever bytes behind it, it is read or is BadInputError; nothing else is raised.
@settings(deadline=None, max_examples=60)
@given(
    st.one_of(VALUES, st.dictionaries(KEYS, VALUES), st.dictionaries(KEYS, VALUES).map(lambda entry: one(**entry))),
    st.binary(max_size=20),
)
def test_any_request(document, blob):
    try:
        found = read(document, blob)
    except BadInputError as error:
        message = str(error)
        assert len(message) < 1000
    else:
        assert all(isinstance(tensor, torch.Tensor) for tensor in found.inputs.values())


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=60), st.text(max_size=5))
def test_any_bytes(body, length):
    with contextlib.suppress(BadInputError):
        read_binary(body, length)


def test_elements_are_little_endian():
    assert from_elements(b"\1\0\0\0", torch.int32, [1], "x").tolist() == [1]


@pytest.mark.parametrize(("datatype", "bits"), [("UINT32", 32), ("UINT64", 64)])
def test_numbers_that_java_gave_a_sign(datatype, bits):
    """The frontend's JSON of a gRPC request; over HTTP a negative number is wrong."""
    right = [2**bits - 1, 2 ** (bits - 1), 2 ** (bits - 1) - 1, 0]
    sent = one(datatype=datatype, data=[-1, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 0])
    assert read(sent, grpc=True).inputs["x"].flatten().tolist() == right
    with pytest.raises(BadInputError, match=f"-1 is no {datatype.lower()}"):
        read(sent)
    beyond = one(datatype=datatype, data=[-(2 ** (bits - 1)) - 1, 0, 0, 0])  # not a number of Java's
    with pytest.raises(BadInputError):
        read(beyond, grpc=True)


@pytest.mark.parametrize(
    ("datatype", "data"), [("UINT16", [-1, 0, 0, 0]), ("UINT64", [-1.0, 0, 0, 0]), ("UINT8", None)]
)
def test_other_numbers_of_a_grpc_request_stay(datatype, data):
    with pytest.raises(BadInputError):
        read(one(datatype=datatype, data=data), grpc=True)
    signed = read(one(datatype="INT64", data=[-1, 0, 0, 0]), grpc=True)
    assert signed.inputs["x"].flatten().tolist() == [-1, 0, 0, 0]
