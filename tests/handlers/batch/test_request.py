"""Hooks for single requests, and what they get of theirs."""

import time
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from handlers import BadInputError, BaseHandler, ImageClassifier, RequestContext
from handlers.batch.request import requests_of
from handlers.testing import FakeContext, Request


class Halves(BaseHandler):
    """A handler that halves numbers through a model of its own, and keeps a diary."""

    def __init__(self):
        super().__init__()
        self.diary = []
        self.batches = []
        self.model = lambda data: data / 2

    def preprocess_one(self, data, context):
        self.diary.append(("preprocess", data))
        if data == "bad":
            raise BadInputError("not a number")
        if data == "bug":
            raise KeyError("inner matter")
        if data == "memory":
            raise MemoryError
        context.state["asked"] = data
        context.set_header("x-asked", str(data))
        return torch.tensor([float(data)])

    def inference(self, data):
        self.batches.append(data.shape[0])
        return super().inference(data)

    def postprocess_one(self, output, context):
        self.diary.append(("postprocess", output.item()))
        if output.item() == 21:
            raise BadInputError("no halves of 42")
        if output.item() == -1:
            raise MemoryError
        context.set_status(200 + int(context.headers.get("more", 0)))
        return {"half": output.item(), "of": context.state["asked"], "for": context.request_id}


def rows(*values):
    return [{"body": value} for value in values]


@pytest.fixture
def handle(make_context):
    """Handle a batch with the stock's context; return replies, statuses and the context."""

    def run(handler, *values, headers=None):
        context = make_context(requests=len(values), headers=headers)
        output = handler.handle(rows(*values), context)
        return output, [context.get_response_status(index)[0] for index in range(len(values))], context

    return run


def test_the_same_code_serves_every_size_of_a_batch(handle):
    for values in ([1], [1, 2, 3], list(range(9))):
        handler = Halves()
        output, statuses, context = handle(handler, *values)
        assert [(item["half"], item["of"]) for item in output] == [(value / 2, value) for value in values]
        assert [item["for"] for item in output] == [f"request-{index}" for index in range(len(values))]
        assert statuses == [200] * len(values)
        assert handler.batches == [len(values)]
        assert [context.get_response_headers(i)["x-asked"] for i in range(len(values))] == list(map(str, values))


def test_a_bad_request_fails_alone_and_nothing_runs_twice(handle):
    handler = Halves()
    output, statuses, context = handle(handler, 1, "bad", 3, "bug", 5, headers={4: {"More": "7"}})
    assert statuses == [200, 400, 200, 503, 207]
    assert [item.get("half") for item in output] == [0.5, None, 1.5, None, 2.5]
    assert output[1] == {"code": 400, "type": "BadInputError", "message": "not a number"}
    assert [item.get("for") for item in output] == ["request-0", None, "request-2", None, "request-4"]
    assert [data for step, data in handler.diary if step == "preprocess"] == [1, "bad", 3, "bug", 5]
    assert handler.batches == [3]
    assert len(context.request_processor) == 5


def test_a_reply_that_fails_fails_alone_and_nothing_runs_twice(handle):
    handler = Halves()
    output, statuses, _ = handle(handler, 1, 42, 3)
    assert statuses == [200, 400, 200]
    assert output[1]["message"] == "no halves of 42"
    assert len(handler.diary) == 6
    assert handler.batches == [3]


def test_all_bad(handle):
    handler = Halves()
    assert handle(handler, "bad", "bad")[1] == [400, 400]
    assert handler.batches == []


@pytest.mark.parametrize("config", [{"sequenceBatching": True}, {}])
def test_where_nothing_may_run_twice_the_others_are_answered_all_the_same(handle, config):
    handler = Halves()
    handler.isolate_errors = bool(config)
    handler.model_yaml_config = config
    assert handle(handler, 1, "bad", 42, 3)[1] == [200, 400, 400, 200]


@pytest.mark.parametrize("value", ["memory", -2])
def test_lack_of_memory_is_the_workers_matter(handle, value):
    with pytest.raises(MemoryError):
        handle(Halves(), 1, value)


def test_a_model_that_fails_on_one_request(handle):
    """Then the batch is looked through as ever, with new states and the right headers."""

    class Picky(Halves):
        def inference(self, data):
            if 4 in data:
                raise RuntimeError("the model breaks")
            names = [self.context.get_request_header(index, "more") for index in range(len(data))]
            assert names == [str(int(value)) for value in data.flatten()]
            return super().inference(data)

    headers = {0: {"more": "1"}, 2: {"more": "4"}, 3: {"more": "5"}}
    output, statuses, _ = handle(Picky(), 1, "bad", 4, 5, headers=headers)
    assert statuses == [201, 400, 503, 205]
    assert output[3] == {"half": 2.5, "of": 5, "for": "request-3"}


def test_parts_of_unlike_shapes_are_answered_apart(handle):
    class Sums(BaseHandler):
        model = staticmethod(lambda data: data.sum(dim=1))

        def __init__(self):
            super().__init__()
            self.model = type(self).model

        def preprocess_one(self, data, context):
            return torch.tensor(data)

    assert handle(Sums(), [1, 2], [1, 2, 3], [4, 5])[0] == [3, 6, 9]


def test_a_wrong_number_of_parts_is_told_in_the_log(handle, caplog):
    class Short(Halves):
        def split(self, output):
            return super().split(output)[:-1]

    assert handle(Short(), 1, 2)[1] == [503, 503]
    assert "0 items for 1 requests" in caplog.text


def test_outside_a_worker_errors_are_raised_and_nobody_is_told_anything(make_context):
    class Free(Halves):
        def postprocess_one(self, output, context):
            assert (context.headers, context.request_id, context.deadline) == ({}, None, None)
            context.set_status(404)
            context.set_content_type("text/plain")
            context.add_counter("Halves")
            return output.item()

    assert Free().handle(rows(1, 3), None) == [0.5, 1.5]
    assert Free().handle(rows(1, 3), make_context()) == [0.5, 1.5]
    with pytest.raises(BadInputError):
        Free().handle(rows(1, "bad"), None)
    with pytest.raises(BadInputError):
        Halves().handle(rows(42), None)


def test_an_envelope_that_makes_several_rows_of_one_request(make_context):
    context = make_context(requests=1, headers={0: {"more": "3"}})
    output = Halves().handle(rows(1, "bad", 3), context)
    assert [item.get("of") for item in output] == [1, None, 3]
    assert [item.get("for") for item in output] == ["request-0", None, "request-0"]
    assert context.get_response_status(0)[0] == 400


def test_an_envelope_that_makes_rows_of_several_requests(make_context):
    context = make_context(requests=2, headers={0: {"more": "3"}})
    assert [item["for"] for item in Halves().handle(rows(1, 2, 3), context)] == [None] * 3
    with pytest.raises(BadInputError):
        Halves().handle(rows(1, 2, "bad"), context)


def test_explanations_use_the_same_preprocessing(handle):
    class Explaining(Halves):
        def get_insights(self, tensor_data, raw_data, target):
            return [[*tensor_data.shape, raw_data]]

    headers = {1: {"explain": "True"}, 2: {"explain": "True"}}
    output, statuses, _ = handle(Explaining(), 1, 2, "bad", headers=headers)
    assert output[0]["half"] == 0.5
    assert output[1] == [1, 1, 2]
    assert statuses == [200, 200, 400]


def test_both_halves_of_handle_know_the_same_requests(make_context):
    handler, context = Halves(), make_context(requests=3)
    prepared = handler.prepare(rows(1, "bad", 42), context)
    assert prepared.done
    assert prepared.error is None
    assert list(prepared.failed) == [1]
    assert handler.batches == []
    first, second, third = handler.complete(prepared, context)
    assert first == {"half": 0.5, "of": 1, "for": "request-0"}
    assert (second["message"], third["message"]) == ("not a number", "no halves of 42")


def test_lack_of_memory_in_the_first_half_is_raised_by_the_second(make_context):
    handler, context = Halves(), make_context(requests=2)
    prepared = handler.prepare(rows(1, "memory"), context)
    with pytest.raises(MemoryError):
        handler.complete(prepared, context)


def test_hooks_of_ones_own_are_not_known_to_keep_no_batch():
    class Collating(BaseHandler):
        def collate(self, items):
            return items

    assert BaseHandler().may_pipeline()
    assert not Halves().may_pipeline()
    assert not Collating().may_pipeline()


# ---- the two forms of a hook ---------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_the_batch(handle):
    class Sum(BaseHandler):
        def __init__(self):
            super().__init__()
            self.model = nn.Identity()

        def preprocess_one(self, data, context):
            return super().preprocess_one(data, context) + 1

        def postprocess_one(self, output, context):
            return {"is": super().postprocess_one(output, context)}

    assert handle(Sum(), [1, 2], b"[3, 4]")[0] == [{"is": [2, 3]}, {"is": [4, 5]}]
    assert handle(Sum(), 1)[0] == [{"is": 2}]


def test_a_hook_for_the_batch_and_one_for_single_requests(handle):
    class Mixed(Halves):
        def preprocess(self, data):
            assert len(data) == 2
            return super().preprocess(data) * 10

    assert [item["half"] for item in handle(Mixed(), 1, 2)[0]] == [5, 10]

    class Counted(Halves):
        def postprocess(self, data):
            return [item | {"batch": len(data)} for item in super().postprocess(data)]

    assert handle(Counted(), 1, 2)[0][1] == {"half": 1, "of": 2, "for": "request-1", "batch": 2}


def test_the_hook_of_the_more_derived_class_counts(handle, picture):
    class Best(ImageClassifier):
        def postprocess_one(self, output, context):
            return int(output.argmax())

    class Still(Best):
        topk = 1

    class Again(Best):
        def postprocess(self, data):
            return ["batch"] * len(data)

    class Mixin:
        def postprocess_one(self, output, context):
            return "mixed in"

    class Joined(Mixin, ImageClassifier):
        pass

    for kind, expected in ((Best, 1), (Still, 1), (Again, "batch"), (Joined, "mixed in")):
        handler = kind()
        handler.model = nn.Sequential(nn.Flatten(), nn.LazyLinear(3))
        handler.model(torch.ones(1, 3, 224, 224))
        handler.model[1].bias.data = torch.tensor([0.0, 1e6, 0.0])
        assert handle(handler, picture(), picture())[0] == [expected] * 2
        assert handler.postprocess(torch.tensor([[0.0, 1.0]])) == [expected]  # as TorchServe's MicroBatching does


def test_hooks_on_the_instance(handle):
    handler = BaseHandler()
    handler.model = nn.Identity()
    handler.preprocess_one = lambda data, context: torch.tensor(len(data))
    handler.postprocess_one = lambda output, context: f"{output.item()} letters"
    assert handle(handler, "ab", "abc")[0] == ["2 letters", "3 letters"]


def test_what_is_no_tensor_stays_a_list():
    assert BaseHandler().collate([1, torch.ones(1)]) == [1, torch.ones(1)]
    assert BaseHandler().collate([torch.ones(2), torch.ones(2)]).shape == (2, 2)


def test_a_step_of_single_requests_is_timed_as_one(make_context):
    recorded = []
    context = make_context(requests=2)
    context.metrics = SimpleNamespace(add_time=lambda name, *_: recorded.append(name))
    handler = Halves()
    handler.model_yaml_config = {"handler": {"profile": True}}
    handler.handle(rows(1, 2), context)
    assert recorded == ["ts_handler_preprocess", "ts_handler_inference", "ts_handler_postprocess", "HandlerTime"]


def test_traces(handle, monkeypatch, tmp_path):
    monkeypatch.setenv("ENABLE_TORCH_PROFILER", "1")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    output, statuses, _ = handle(Halves(), 1, "bad", 3)
    assert output[2] == {"half": 1.5, "of": 3, "for": "request-2"}
    assert statuses == [200, 400, 200]


# ---- the context of one request ------------------------------------------------------------------------------------


def test_what_a_request_is_told(make_context):
    headers = {1: {"Content-Type": "text/plain", "X-Name": "b", "data": {"content-type": ""}}}
    context = make_context(requests=2, headers=headers)
    row = {"data": b"x", "top": b"3"}
    first, second = requests_of(context, [{"body": 1}, row])
    assert first.headers == {}
    assert second.headers == {"content-type": "text/plain", "x-name": "b"}
    assert second.parameters is row
    assert (first.request_id, second.request_id) == ("request-0", "request-1")
    assert first.state is not second.state


@pytest.mark.parametrize(
    ("told", "row", "expected"),
    [
        ({"Content-Type": "image/png"}, {"body": b"x"}, "image/png"),
        ({"Content-Type": "image/png; a=b", "body": {"content-type": "image/png"}}, {"body": b"x"}, "image/png"),
        ({"Content-Type": "multipart/form-data", "data": {"content-type": "image/gif"}}, {"data": b"x"}, "image/gif"),
        ({"Content-Type": "multipart/form-data", "data": {"content-type": ""}}, {"data": b"x"}, ""),
        ({"Content-Type": "text/plain", "data": {"content-type": "image/gif"}}, {"top": b"3"}, "text/plain"),
        ({}, {"data": b"x"}, ""),
    ],
)
def test_the_content_type_of_the_input(make_context, told, row, expected):
    (one,) = requests_of(make_context(requests=1, headers={0: told}), [row])
    assert one.content_type == expected
    assert requests_of(None, [row])[0].content_type == ""


def test_what_a_request_sets(make_context):
    context = make_context(requests=2)
    _, second = requests_of(context, [{}, {}])
    second.set_status(201, "Made")
    second.set_header("x-cache", "miss")
    second.set_content_type("image/png")
    assert context.get_response_status(1) == (201, "Made")
    assert context.get_response_headers(1) == {"x-cache": "miss", "content-type": "image/png"}
    assert context.get_response_headers(0) == {}


def test_rows_that_are_no_dicts_have_no_parameters(make_context):
    (one,) = requests_of(make_context(requests=1), [[1, 2]])
    assert one.parameters == {}


def test_metrics_are_of_their_request(make_context):
    recorded = []

    def add(kind):
        def record(name, value, idx, dimensions):
            assert dimensions == []
            dimensions.append("TorchServe adds to it")
            recorded.append((kind, name, value, idx))

        return record

    context = make_context(requests=2)
    kinds = ("add_counter", "add_time", "add_size", "add_percent")
    context.metrics = SimpleNamespace(**{kind: add(kind) for kind in kinds})
    _, second = requests_of(context, [{}, {}])
    second.add_counter("Pictures")
    second.add_counter("Pixels", 12)
    second.add_time("Decode", 1.5)
    second.add_size("Body", 0.25)
    second.add_percent("Covered", 40)
    assert recorded == [
        ("add_counter", "Pictures", 1, 1),
        ("add_counter", "Pixels", 12, 1),
        ("add_time", "Decode", 1.5, 1),
        ("add_size", "Body", 0.25, 1),
        ("add_percent", "Covered", 40, 1),
    ]


def test_torchserves_own_metrics_take_them(make_context, archives, capsys, caplog):
    caplog.set_level("INFO")
    handler = """
        from handlers import BaseHandler

        class Counting(BaseHandler):
            def preprocess_one(self, data, context):
                context.add_counter("Numbers", 2)
                context.add_time("Decode", 1.5)
                context.add_size("Body", 0.25)
                context.add_percent("Covered", 40)
                return super().preprocess_one(data, context)
    """
    net = "from torch import nn\nclass Net(nn.Identity): pass\n"
    assert archives.serve(model_file=net, handler=handler).predict([1.0], [2.0]).items[1].json() == [2.0]
    written = caplog.text + capsys.readouterr().out
    for line in ("Numbers.Count:2", "Decode.Milliseconds:1.5", "Body.Megabytes:0.25", "Covered.Percent:40"):
        assert line in written
    assert "request-1" in written


@pytest.mark.parametrize(
    ("config", "variable", "seconds"),
    [
        ({"responseTimeout": 7}, None, 7),
        ({"responseTimeout": 7}, "30", 7),
        ({"responseTimeout": 0}, None, 120),  # as the frontend: what is not a number of seconds does not count
        ({"responseTimeout": True}, None, 120),
        ({"minWorkers": 1}, "30", 120),
        ({}, "30", 30),
        ({}, "soon", None),
        ({}, None, None),
        (None, None, None),
    ],
)
def test_the_deadline(make_context, monkeypatch, config, variable, seconds):
    monkeypatch.delenv("TORCHMAR_RESPONSE_TIMEOUT", raising=False)
    if variable is not None:
        monkeypatch.setenv("TORCHMAR_RESPONSE_TIMEOUT", variable)
    before = time.monotonic()
    (one,) = requests_of(make_context(requests=1, config=config), [{}])
    if seconds is None:
        assert one.deadline is None
    else:
        assert before + seconds <= one.deadline <= time.monotonic() + seconds


def test_the_clients_deadline_counts_where_it_is_sooner():
    context = FakeContext(config={"responseTimeout": 7})
    now = time.monotonic()
    rows = context.show(
        [Request({"body": 1}, deadline=now + 1, attempt=2), Request({"body": 2}, deadline=now + 60), b""]
    )
    first, second, third = requests_of(context, rows)
    assert (first.deadline, first.attempt) == (now + 1, 2)
    for other in (second, third):
        assert now + 6.9 <= other.deadline <= time.monotonic() + 7
        assert other.attempt == 1
    context = FakeContext(config=None, requests=[Request({"body": 1}, deadline=now + 60)])
    assert requests_of(context, [{}])[0].deadline == now + 60


def test_torchserves_own_worker_knows_of_no_client(make_context):
    (one,) = requests_of(make_context(requests=1, config=None), [{}])
    assert (one.deadline, one.attempt, RequestContext().attempt) == (None, 1, 1)


def test_a_context_of_another_kind_has_no_requests():
    (one,) = requests_of(SimpleNamespace(), [{}])
    assert (one.headers, one.request_id, one.deadline) == ({}, None, None)
    assert RequestContext().parameters == {}
