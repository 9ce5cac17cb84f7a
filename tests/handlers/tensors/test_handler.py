"""The default handler, called as the installed torchserve package's service calls it."""

import json
import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from handlers import BadInputError, BaseHandler, NotAcceptableError, RequestContext, TensorHandler
from handlers.fake_context import FakeProcessor
from handlers.loading.signature import Signature, Tensor
from handlers.tensors.codecs import read_npy, read_npz, read_safetensors, write_npy, write_npz, write_safetensors

HANDLER = "from handlers import TensorHandler\nclass Handler(TensorHandler):\n    pass\n"
ONE = """
    import torch
    from torch import nn

    class Net(nn.Module):
        calls = []
        def forward(self, x):
            Net.calls.append(tuple(x.shape))
            return x.sum(dim=1) * 2
"""
TWO = """
    from torch import nn

    class Net(nn.Module):
        def forward(self, ids, weights):
            assert ids.dtype.is_floating_point is False
            return {"total": (ids * weights).sum(dim=1), "scaled": weights * 10}
"""
ONE_RECORD = {
    "inputs": [{"name": "x", "dtype": "float32", "shape": [None, 3]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": [None]}],
}
TWO_RECORD = {
    "inputs": [
        {"name": "ids", "dtype": "int64", "shape": [None, 2]},
        {"name": "weights", "dtype": "float32", "shape": [None, 2]},
    ],
    "outputs": [
        {"name": "total", "dtype": "float32", "shape": [None]},
        {"name": "scaled", "dtype": "float32", "shape": [None, 2]},
    ],
}


@pytest.fixture
def serve(archives, monkeypatch):
    """Serve a model file with a record of its inputs and outputs."""

    def start(model_file, record=None, handler=HANDLER, **parts):
        make = archives.make

        def with_record(**given):
            folder = make(**given)
            manifest = folder / "MAR-INF" / "MANIFEST.json"
            document = json.loads(manifest.read_text())
            if record is not None:
                document["torchmar"] = {"formatVersion": 1, **record}
            manifest.write_text(json.dumps(document))
            return folder

        monkeypatch.setattr(archives, "make", with_record)
        return archives.serve(model_file=model_file, handler=handler, **parts)

    return start


def answers(worker, *bodies):
    """Return the answers to a batch of JSON bodies."""
    reply = worker.predict(*(bytearray(json.dumps(body).encode()) for body in bodies))
    assert reply.code == 200
    return [(item.status, item.json()) for item in reply.items]


def only(worker, body):
    ((status, answer),) = answers(worker, body)
    return status, answer


def calls(worker):
    return type(worker.handler.model).calls


ROWS = [[1, 2, 3], [4, 5, 6.5]]


def test_the_forms_of_a_request_and_their_replies(serve):
    worker = serve(ONE, ONE_RECORD)
    whole = {"tensor_output": [12.0, 31.0]}
    assert answers(worker, {"tensor_input": ROWS}, {"x": ROWS}, ROWS, {"instances": ROWS}) == [
        (200, whole),
        (200, whole),
        (200, whole),
        (200, {"predictions": [12.0, 31.0]}),
    ]
    assert only(worker, {"instances": [{"x": row} for row in ROWS]}) == (200, {"predictions": [12.0, 31.0]})


def test_a_body_that_the_worker_has_parsed_already(serve):
    worker = serve(ONE, ONE_RECORD)
    reply = worker.predict({"tensor_input": ROWS}, json.dumps({"tensor_input": ROWS}))
    assert [item.json() for item in reply.items] == [{"tensor_output": [12.0, 31.0]}] * 2


def test_the_rows_of_a_batch_go_through_the_model_at_once_and_each_request_gets_its_own(serve):
    worker = serve(ONE, ONE_RECORD)
    bodies = [{"tensor_input": [[i, i, i]] * i} for i in (1, 2, 3)]
    assert answers(worker, *bodies) == [(200, {"tensor_output": [6.0 * i] * i}) for i in (1, 2, 3)]
    assert calls(worker) == [(6, 3)]


def test_requests_of_other_shapes_run_apart(serve):
    record = ONE_RECORD | {"inputs": [{"name": "x", "dtype": "float32", "shape": [None, None]}]}
    worker = serve(ONE, record)
    bodies = [{"tensor_input": value} for value in ([[1, 2]], [[1, 2, 3]], [[5, 5]])]
    assert [answer["tensor_output"] for _, answer in answers(worker, *bodies)] == [[6.0], [12.0], [20.0]]
    assert calls(worker) == [(2, 2), (1, 3)]


@pytest.mark.parametrize("shape", [[2, 3], None])
def test_without_rows_each_request_runs_by_itself(serve, shape):
    worker = serve(ONE, ONE_RECORD | {"inputs": [{"name": "x", "shape": shape}]})
    assert answers(worker, *[{"tensor_input": ROWS}] * 2) == [(200, {"tensor_output": [12.0, 31.0]})] * 2
    assert calls(worker) == [(2, 3)] * 2


def test_without_a_record_anything_goes(serve):
    worker = serve(ONE)
    assert answers(worker, {"tensor_input": ROWS}, {"instances": ROWS}, [[1, 2]]) == [
        (200, {"tensor_output": [12.0, 31.0]}),
        (200, {"predictions": [12.0, 31.0]}),
        (200, {"tensor_output": [6.0]}),
    ]
    status, answer = only(worker, {"x": ROWS})
    assert (status, answer["message"]) == (400, "expected 'tensor_input' or 'instances', got 'x'")


def test_several_inputs_and_outputs(serve):
    worker = serve(TWO, TWO_RECORD)
    given = {"weights": [[0.5, 1], [2, 2]], "ids": [[2, 4], [1, 1]]}
    expected = {"total": [5.0, 4.0], "scaled": [[5.0, 10.0], [20.0, 20.0]]}
    rows = [{"ids": i, "weights": w} for i, w in zip(given["ids"], given["weights"], strict=True)]
    assert answers(worker, given, {"tensor_input": given}, {"instances": rows}) == [
        (200, {"tensor_output": expected}),
        (200, {"tensor_output": expected}),
        (200, {"predictions": [{"total": 5.0, "scaled": [5.0, 10.0]}, {"total": 4.0, "scaled": [20.0, 20.0]}]}),
    ]


def test_inputs_of_different_numbers_of_rows_are_never_joined_with_others(serve):
    model = """
        from torch import nn
        class Net(nn.Module):
            def forward(self, ids, weights): return ids.sum() * weights
    """
    worker = serve(model, TWO_RECORD | {"outputs": [{"name": "y", "shape": [None, 2]}]})
    odd = {"ids": [[1, 1]], "weights": [[1, 2], [3, 4]]}
    found = answers(worker, odd, odd)
    assert found == [(200, {"tensor_output": [[2.0, 4.0], [6.0, 8.0]]})] * 2


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"tensor_input": [[1, 2]]}, "the input 'x' is expected in the shape [any, 3], got [1, 2]"),
        ({"tensor_input": [1, 2, 3]}, "the input 'x' is expected in the shape [any, 3], got [3]"),
        ({"tensor_input": []}, "the input 'x' is expected in the shape [any, 3], got [0]"),
        ({"tensor_input": [[1, 2, "3"]]}, "the input 'x': element [0][2] is the text '3' and not a number"),
        ({"tensor_input": {"y": ROWS}}, "expected 'x', got 'y'"),
        ({"tensor_input": ROWS, "more": 1}, "beside 'tensor_input' there must be nothing, got 'more'"),
        ({"instances": ROWS, "more": 1}, "beside 'instances' there must be nothing, got 'more'"),
        ({"y": ROWS}, "expected 'x', got 'y'"),
        ({}, "expected 'x', got an empty object"),
        ({"instances": []}, "'instances' must be a list with at least one row"),
        ({"instances": {"x": 1}}, "'instances' must be a list with at least one row"),
        ({"instances": [{"x": [1, 2, 3]}, [1, 2, 3]]}, "instance 1 is no object, as others are"),
        ({"instances": [{"x": [1, 2, 3]}, {"y": 1}]}, "instance 1: expected 'x', got 'y'"),
    ],
)
def test_a_wrong_input_is_told_with_what_was_expected(serve, body, message):
    worker = serve(ONE, ONE_RECORD)
    (good, answer), (status, error) = answers(worker, {"tensor_input": ROWS}, body)
    assert (good, answer) == (200, {"tensor_output": [12.0, 31.0]})
    assert (status, error["type"], error["message"]) == (400, "BadInputError", message)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([[1, 2]], "the model takes 2 inputs: send an object with 'ids', 'weights'"),
        ({"tensor_input": [[1]]}, "the model takes 2 inputs: send an object with 'ids', 'weights'"),
        ({"instances": [[1]]}, "the model takes 2 inputs: each instance must have 'ids', 'weights'"),
        ({"ids": [[1, 2]]}, "expected 'ids', 'weights', got 'ids'"),
        ({"ids": [[1, 2.5]], "weights": [[1, 2]]}, "the input 'ids': 2.5 is no int64 (element [0][1])"),
    ],
)
def test_a_wrong_input_of_a_model_with_several(serve, body, message):
    assert only(serve(TWO, TWO_RECORD), body) == (400, {"code": 400, "type": "BadInputError", "message": message})


def test_no_body_and_no_json(serve):
    worker = serve(ONE, ONE_RECORD)
    reply = worker.predict(bytearray(), bytearray(b"{"))
    assert [(item.status, item.json()["message"]) for item in reply.items] == [
        (400, 'the request has no body: send {"tensor_input": [[...]]} or {"instances": [...]}'),
        (400, 'the body is not JSON: send {"tensor_input": [[...]]} or {"instances": [...]}'),
    ]


def test_an_input_may_be_called_instances(serve):
    worker = serve(ONE, ONE_RECORD | {"inputs": [{"name": "instances", "shape": [None, 3]}]})
    assert only(worker, {"instances": ROWS}) == (200, {"tensor_output": [12.0, 31.0]})


MEAN = """
    from torch import nn
    class Net(nn.Module):
        def forward(self, x): return x.mean()
"""


def test_an_output_without_rows_answers_no_instances(serve):
    worker = serve(MEAN, ONE_RECORD | {"outputs": [{"name": "y", "shape": []}]})
    assert only(worker, {"tensor_input": [[1, 2, 3]]}) == (200, {"tensor_output": 2.0})
    status, answer = only(worker, {"instances": [[1, 2, 3]]})
    assert (status, answer["message"]) == (400, "the output 'y' has no row for each instance: send 'tensor_input'")


def test_a_model_that_does_not_do_what_the_manifest_says_mixes_no_requests(serve, caplog):
    worker = serve(MEAN, ONE_RECORD)
    with caplog.at_level(logging.DEBUG):
        assert [answer for _, answer in answers(worker, [[1, 2, 3]], [[4, 5, 6]])] == [
            {"tensor_output": 2.0},
            {"tensor_output": 5.0},
        ]


def test_a_description(serve, ask):
    worker = serve(ONE, ONE_RECORD)
    reply = worker.predict(ask(0, None, {"describe": "True"}))
    assert reply.items[0].json() == ONE_RECORD


def test_own_hooks_may_stand_before_and_behind_the_model(serve):
    handler = """
        import torch
        from handlers import TensorHandler

        class Handler(TensorHandler):
            def preprocess(self, data):
                return torch.stack([torch.full((3,), float(row["body"])) for row in data])
    """
    worker = serve(ONE, ONE_RECORD, handler)
    assert answers(worker, 1, 2) == [(200, 6.0), (200, 12.0)]
    handler = """
        from handlers import TensorHandler

        class Handler(TensorHandler):
            def postprocess(self, data):
                return [{"sum": reply["tensor_output"]} for reply in super().postprocess(data)]
    """
    assert only(serve(ONE, ONE_RECORD, handler), ROWS) == (200, {"sum": [12.0, 31.0]})


def test_the_next_batch_may_be_prepared_meanwhile():
    assert TensorHandler().may_pipeline()


def test_the_hooks_are_the_base_handlers():
    assert issubclass(TensorHandler, BaseHandler)
    handler = TensorHandler()
    handler.model, handler.device = nn.Identity(), torch.device("cpu")
    assert torch.equal(handler.inference(torch.ones(2)), torch.ones(2))
    assert handler.postprocess(torch.ones(2)) == [1.0, 1.0]


# ---- other forms than JSON, and the Open Inference Protocol ----------------------------------------------------------

NPY, NPZ, SAFETENSORS = "application/x-npy", "application/x-npz", "application/safetensors"
TENSOR = torch.tensor(ROWS)
SUMS = torch.tensor([12.0, 31.0])
PROTOCOL = {"inputs": [{"name": "x", "shape": [2, 3], "datatype": "FP32", "data": [1, 2, 3, 4, 5, 6.5]}]}
IN_PROTOCOL = {
    "model_name": "model",
    "model_version": "1.0",
    "id": "mine",
    "outputs": [{"name": "y", "shape": [2], "datatype": "FP32", "data": [12.0, 31.0]}],
}
ANYTHING = {"Accept": "*/*"}


def sent(tensors, form):
    """Return a body of this form."""
    if form == NPY:
        (tensor,) = tensors.values()
        return bytearray(write_npy(tensor))
    return bytearray((write_npz if form == NPZ else write_safetensors)(tensors))


def received(item):
    """Return the tensors of a reply by its content type."""
    assert item.status == 200, item.body
    assert item.content_type == item.headers["content-type"]
    if item.content_type == NPY:
        return read_npy(item.body)
    return (read_npz if item.content_type == NPZ else read_safetensors)(item.body)


@pytest.mark.parametrize("headers", [{"Content-Type": "FORM"}, {}, {"Content-Type": "application/octet-stream"}])
@pytest.mark.parametrize("form", [NPY, NPZ, SAFETENSORS])
def test_a_binary_body_by_its_content_type_or_its_first_bytes(serve, ask, form, headers):
    worker = serve(ONE, ONE_RECORD)
    headers = {name: value.replace("FORM", form) for name, value in headers.items()}
    (item,) = worker.predict(ask(0, sent({"x": TENSOR}, form), headers | ANYTHING)).items
    found = received(item)
    assert item.content_type == form
    assert torch.equal(found if form == NPY else found["y"], SUMS)


@pytest.mark.parametrize("wanted", [NPY, NPZ, SAFETENSORS, "application/vnd.safetensors"])
@pytest.mark.parametrize("body", [{"tensor_input": ROWS}, {"instances": ROWS}, PROTOCOL, TENSOR])
def test_a_reply_of_the_form_that_is_accepted(serve, ask, body, wanted):
    worker = serve(ONE, ONE_RECORD)
    body = sent({"x": body}, NPY) if body is TENSOR else body
    (item,) = worker.predict(ask(0, body, {"accept": f"text/html, {wanted};q=0.5"})).items
    assert item.content_type == wanted
    item.content_type = item.headers["content-type"] = wanted.replace("vnd.", "")
    found = received(item)
    assert torch.equal(found if wanted == NPY else found["y"], SUMS)


def test_json_for_a_binary_body(serve, ask):
    worker = serve(ONE, ONE_RECORD)
    (item,) = worker.predict(ask(0, sent({"x": TENSOR}, NPY), {"Accept": "application/json"})).items
    assert (item.content_type, item.json()) == ("application/json", {"tensor_output": [12.0, 31.0]})


def test_several_inputs_and_outputs_as_bytes(serve, ask):
    worker = serve(TWO, TWO_RECORD)
    tensors = {"weights": torch.tensor([[0.5, 1], [2, 2]]), "ids": torch.tensor([[2, 4], [1, 1]])}
    for form in (NPZ, SAFETENSORS):
        (item,) = worker.predict(ask(0, sent(tensors, form))).items
        found = received(item)
        assert found["total"].tolist() == [5.0, 4.0]
        assert found["scaled"].tolist() == [[5.0, 10.0], [20.0, 20.0]]
    (item,) = worker.predict(ask(0, sent({"ids": tensors["ids"]}, NPY))).items
    assert (item.status, item.json()["message"]) == (
        400,
        "the model takes 2 inputs: send an npz file with 'ids', 'weights'",
    )


TWICE = """
    from torch import nn

    class Net(nn.Module):
        calls = []
        def forward(self, x):
            Net.calls.append(1)
            return x + 1, x * 2
"""
PAIR = ONE_RECORD | {"outputs": [{"name": "a", "shape": [None, 3]}, {"name": "b", "shape": [None, 3]}]}


@pytest.mark.parametrize(("record", "runs"), [(PAIR, 0), (None, 1)])
def test_one_array_of_several_outputs_is_none(serve, ask, record, runs):
    """The manifest says so before the model runs, and without it the model."""
    worker = serve(TWICE, record)
    body = sent({"x": TENSOR}, NPY)
    (item,) = worker.predict(ask(0, body, {"Accept": NPY})).items
    assert (item.status, item.json()["type"]) == (406, "NotAcceptableError")
    assert item.json()["message"] == (
        f"the reply can be {NPZ}, application/json, {SAFETENSORS}; the request accepts only {NPY}"
    )
    assert len(calls(worker)) == runs
    (item,) = worker.predict(ask(0, body)).items
    assert item.content_type == NPZ
    assert torch.equal(list(received(item).values())[1], TENSOR * 2)


def test_what_cannot_be_accepted_or_read(serve, ask, monkeypatch):
    worker = serve(ONE, ONE_RECORD)
    good, other, picture = worker.predict(
        {"tensor_input": ROWS},
        ask(1, {"tensor_input": ROWS}, {"accept": "text/html"}),
        ask(2, bytearray(b"\x89PNG"), {"content-type": "image/png"}),
    ).items
    assert good.json() == {"tensor_output": [12.0, 31.0]}
    assert (other.status, other.content_type) == (406, "application/json")
    assert other.json() == {
        "code": 406,
        "type": "NotAcceptableError",
        "message": f"the reply can be application/json, {SAFETENSORS}, {NPZ}, {NPY}; "
        "the request accepts only text/html",
    }
    assert calls(worker) == [(2, 3)]
    assert (picture.status, picture.json()["message"]) == (
        415,
        f"the content type is 'image/png': send application/json, {NPY}, {NPZ}, {SAFETENSORS}",
    )
    (empty,) = worker.predict(ask(0, bytearray(), {"content-type": NPY})).items
    assert "has no body" in empty.json()["message"]
    monkeypatch.setattr("handlers.tensors.codecs.has_safetensors", lambda: False)
    (item,) = worker.predict(ask(0, {"tensor_input": ROWS}, {"accept": SAFETENSORS})).items
    assert item.status == 406


def test_the_open_inference_protocol(serve, ask):
    worker = serve(ONE, ONE_RECORD)
    document = PROTOCOL | {"id": "mine"}
    parsed, text, other = worker.predict(
        document, bytearray(json.dumps(document).encode()), {"inputs": document["inputs"], "outputs": [{"name": "y"}]}
    ).items
    assert parsed.json() == text.json() == IN_PROTOCOL
    assert parsed.content_type == "application/json"
    assert other.json() == IN_PROTOCOL | {"id": "request-2"}
    worker.service.context.model_name = "registered"  # whatever its archive calls it
    (item,) = worker.predict(document).items
    assert item.json() == IN_PROTOCOL | {"model_name": "registered"}
    (item,) = worker.predict(document | {"outputs": [{"name": "z"}]}).items
    assert (item.status, item.json()["message"]) == (400, "the model has no output 'z'; it gives 'y'")


@pytest.mark.parametrize(
    ("said", "accept", "is_binary"),
    [
        ({}, {}, False),
        ({}, {"accept": "application/octet-stream"}, True),
        ({"parameters": {"binary_data_output": True}}, {}, True),
        ({"parameters": {"binary_data_output": True}}, {"accept": "application/json"}, True),
        ({"outputs": [{"name": "y", "parameters": {"binary_data": True}}]}, {"accept": "*/*"}, True),
    ],
)
def test_binary_data_behind_the_json(serve, ask, said, accept, is_binary):
    worker = serve(ONE, ONE_RECORD)
    entry = {"name": "x", "shape": [2, 3], "datatype": "FP32", "parameters": {"binary_data_size": 24}}
    head = json.dumps({"id": "mine", "inputs": [entry], **said}).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), "Content-Type": "application/octet-stream"}
    body = bytearray(head + TENSOR.numpy().tobytes())
    (item,) = worker.predict(ask(0, body, headers | accept)).items
    if not is_binary:
        assert item.json() == IN_PROTOCOL
        return
    assert item.content_type == "application/octet-stream"
    length = int(item.headers["Inference-Header-Content-Length"])
    entry = {"name": "y", "shape": [2], "datatype": "FP32", "parameters": {"binary_data_size": 8}}
    assert json.loads(item.body[:length]) == IN_PROTOCOL | {"outputs": [entry]}
    assert item.body[length:] == SUMS.numpy().tobytes()


def test_requests_of_every_form_in_one_batch(serve, ask):
    worker = serve(ONE, ONE_RECORD)
    requests = [
        ask(0, {"tensor_input": ROWS}),
        ask(1, sent({"x": TENSOR + 1}, NPY)),
        ask(2, PROTOCOL | {"id": "mine"}),
        ask(3, bytearray(b"\x93NUMPY"), {"content-type": NPY}),
        ask(4, sent({"x": TENSOR}, SAFETENSORS), {"accept": NPZ}),
        ask(5, {"instances": ROWS}),
        ask(6, sent({"x": TENSOR.double()}, NPZ)),
    ]
    items = worker.predict(*requests).items
    assert [item.status for item in items] == [200, 200, 200, 400, 200, 200, 400]
    assert items[0].json() == {"tensor_output": [12.0, 31.0]}
    assert torch.equal(received(items[1]), SUMS + 6)
    assert items[2].json() == IN_PROTOCOL
    assert torch.equal(received(items[4])["y"], SUMS)
    assert items[5].json() == {"predictions": [12.0, 31.0]}
    assert items[6].json()["message"] == "the input 'x' is expected in the type float32, got float64"
    assert calls(worker) == [(10, 3)]  # the good ones, at once


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"x": TENSOR.double()}, "the input 'x' is expected in the type float32, got float64"),
        ({"x": TENSOR.int()}, "the input 'x' is expected in the type float32, got int32"),
        ({"x": TENSOR.t()}, "the input 'x' is expected in the shape [any, 3], got [3, 2]"),
        ({"y": TENSOR}, "expected 'x', got 'y'"),
        ({"x": TENSOR, "y": TENSOR}, "expected 'x', got 'x', 'y'"),
        ({}, "expected 'x', got an empty object"),
    ],
)
def test_named_tensors_are_checked_against_the_manifest(serve, ask, tensors, message):
    worker = serve(ONE, ONE_RECORD)
    for form in (NPZ, SAFETENSORS):
        (item,) = worker.predict(ask(0, sent(tensors, form), {"content-type": form})).items
        assert (item.status, item.json()["message"]) == (400, message)


def test_the_protocol_is_checked_against_the_manifest(serve):
    worker = serve(ONE, ONE_RECORD)
    for change, message in (
        ({"datatype": "FP64"}, "the input 'x' is expected in the type float32, got float64"),
        ({"shape": [3, 2]}, "the input 'x' is expected in the shape [any, 3], got [3, 2]"),
        ({"name": "y"}, "expected 'x', got 'y'"),
    ):
        (item,) = worker.predict({"inputs": [PROTOCOL["inputs"][0] | change]}).items
        assert (item.status, item.json()["message"]) == (400, message)


def test_without_a_record_a_tensor_keeps_its_type(serve, ask):
    worker = serve("from torch import nn\nclass Net(nn.Module):\n    def forward(self, x): return x\n")
    for dtype in (torch.bool, torch.uint8, torch.uint64, torch.int64, torch.float16, torch.float64):
        tensor = torch.tensor([[0, 1]]).to(dtype)
        for form in (NPY, SAFETENSORS):
            (item,) = worker.predict(ask(0, sent({"any": tensor}, form))).items
            found = received(item)
            found = found if form == NPY else found["output"]
            assert (found.dtype, found.tolist()) == (dtype, tensor.tolist())
    (item,) = worker.predict(ask(0, sent({"a": TENSOR, "b": TENSOR}, NPZ))).items
    assert item.json()["message"] == "the archive does not tell the model's inputs: send one tensor, not 2"


def test_a_part_of_a_form_has_its_own_content_type(serve, make_context):
    handler = serve(ONE, ONE_RECORD).handler
    context = make_context(
        requests=1, headers={0: {"content-type": "multipart/form-data; boundary=b", "data": {"content-type": NPY}}}
    )
    (reply,) = handler.handle([{"data": sent({"x": TENSOR}, NPY)}], context)
    assert torch.equal(read_npy(reply), SUMS)


def test_an_input_called_inputs(serve):
    worker = serve(ONE, ONE_RECORD | {"inputs": [{"name": "inputs", "shape": [None, 3]}]})
    assert only(worker, {"inputs": ROWS}) == (200, {"tensor_output": [12.0, 31.0]})
    (item,) = worker.predict({"inputs": [PROTOCOL["inputs"][0] | {"name": "inputs"}]}).items
    assert item.json()["outputs"] == IN_PROTOCOL["outputs"]


def test_a_description_beside_accept(serve, ask):
    worker = serve(ONE, ONE_RECORD)
    assert worker.predict(ask(0, None, {"describe": "True", "accept": NPY})).items[0].json() == ONE_RECORD


HEADERS = st.fixed_dictionaries(
    {},
    optional={"accept": st.sampled_from(["*/*", NPY, "text/html"]), "inference-header-content-length": st.text("0123")},
)
BODIES = st.one_of(
    st.binary(max_size=40),
    st.text('[{"1,.}]:xe', max_size=20).map(str.encode),
    st.sampled_from([write_npy(TENSOR), write_npz({"x": TENSOR}), write_safetensors({"x": TENSOR})]),
)


# Whatever comes under whatever type, a request is read or refused; nothing else is raised.
@settings(deadline=None, max_examples=60)
@given(BODIES, st.sampled_from(["", "application/octet-stream", "application/json", NPY, NPZ, SAFETENSORS]), HEADERS)
def test_any_request_is_read_or_refused(body, content_type, headers):
    handler = TensorHandler()
    handler.signature = Signature((Tensor("x", shape=(None, 3)),), (Tensor("y"),))
    processor = FakeProcessor({"content-type": content_type, **headers})
    try:
        found = handler.preprocess_one(bytearray(body), RequestContext(None, processor, {"body": body}))
    except BadInputError:
        pass
    except NotAcceptableError:
        assert headers["accept"] == "text/html"
    else:
        assert found.inputs[0].shape[1:] == (3,)
