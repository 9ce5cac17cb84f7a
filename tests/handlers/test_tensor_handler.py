"""The default handler, called as the installed torchserve package's service calls it."""

import json
import logging

import pytest
import torch
from torch import nn

from handlers import BaseHandler, TensorHandler

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
    """What each of a batch of JSON bodies is answered with."""
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
        ({"ids": [[1, 2.5]], "weights": [[1, 2]]}, "the input 'ids': 2.5 is no int64"),
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
