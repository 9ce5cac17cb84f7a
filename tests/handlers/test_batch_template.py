from types import SimpleNamespace

import pytest

from handlers import BadInputError, BaseHandler, NotSupportedError, RequestError


class Doubler(BaseHandler):
    """A handler that doubles numbers without a model, and keeps a diary of the batches that each hook saw."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def preprocess(self, data):
        self.seen.append([row["body"] for row in data])
        for row in data:
            if row["body"] == "bad":
                raise BadInputError("not a number")
            if row["body"] == "bug":
                raise KeyError("inner matter")
        return [row["body"] for row in data]

    def inference(self, data):
        if "model breaks" in data:
            raise RuntimeError("the shapes differ")
        if "gpu breaks" in data:
            raise RuntimeError("CUDA error: unspecified launch failure")
        if "memory" in data:
            raise MemoryError
        return data

    def postprocess(self, data):
        return [2 * value if isinstance(value, int) else value for value in data]


def rows(*values):
    return [{"body": value} for value in values]


@pytest.fixture
def handle(make_context):
    """Handle a batch with the stock's context; return the replies and their statuses."""

    def run(handler, *values, headers=None, **options):
        context = make_context(requests=len(values), headers=headers, **options)
        context.metrics = options.get("metrics")
        output = handler.handle(rows(*values), context)
        assert len(context.request_processor) == len(values)
        return output, [context.get_response_status(index)[0] for index in range(len(values))]

    return run


def test_a_good_batch_runs_once(handle):
    handler = Doubler()
    assert handle(handler, 1, 2, 3) == ([2, 4, 6], [200, 200, 200])
    assert handler.seen == [[1, 2, 3]]


def test_a_bad_request_fails_alone(handle):
    handler = Doubler()
    output, statuses = handle(handler, 1, "bad", 3)
    assert statuses == [200, 400, 200]
    assert output == [2, {"code": 400, "type": "BadInputError", "message": "not a number"}, 6]
    assert handler.seen[-1] == [1, 3]  # the good ones ran as one batch again


def test_a_batch_of_one_runs_once(handle):
    handler = Doubler()
    output, statuses = handle(handler, "bad")
    assert statuses == [400]
    assert output[0]["message"] == "not a number"
    assert len(handler.seen) == 1


def test_all_bad(handle):
    _, statuses = handle(Doubler(), "bad", "bug", "bad")
    assert statuses == [400, 503, 400]


def test_what_only_the_model_finds_bad_fails_alone_too(handle, caplog):
    output, statuses = handle(Doubler(), 1, "model breaks", 3, "bad")
    assert statuses == [200, 503, 200, 400]
    assert output[0] == 2
    assert output[2] == 6
    assert "the shapes differ" in caplog.text
    assert "the shapes differ" not in str(output)


@pytest.mark.parametrize(("value", "kind"), [("gpu breaks", RuntimeError), ("memory", MemoryError)])
def test_failing_hardware_is_the_workers_matter(handle, value, kind):
    with pytest.raises(kind):
        handle(Doubler(), 1, value)
    with pytest.raises(kind):
        handle(Doubler(), value)


def test_hooks_that_look_at_the_context_see_their_own_request(handle):
    class Named(Doubler):
        def postprocess(self, data):
            names = [self.context.get_request_header(index, "name") for index in range(len(data))]
            for index, name in enumerate(names):
                self.context.set_response_status(code=200 + int(name), idx=index)
            return [f"{name}:{self.context.get_request_id(index)}" for index, name in enumerate(names)]

    headers = {index: {"name": str(index)} for index in range(4)}
    output, statuses = handle(Named(), 1, "bad", 3, "model breaks", headers=headers)
    assert output[0] == "0:request-0"
    assert output[2] == "2:request-2"
    assert statuses == [200, 400, 202, 503]


@pytest.mark.parametrize(
    ("result", "reason"), [([1], "1 items for 2 requests"), ("ab", "str in place of a list"), (None, "NoneType")]
)
def test_a_wrong_result_is_told_in_the_log(handle, caplog, result, reason):
    class Wrong(Doubler):
        def postprocess(self, data):
            return result if len(data) > 1 or not isinstance(result, list) else []

    output, statuses = handle(Wrong(), 1, 2)
    assert statuses == [503, 503]
    assert "id" in output[0]["message"]
    if isinstance(result, list):
        assert "0 items for 1 requests" in caplog.text
    else:
        assert reason in caplog.text


def test_a_handler_for_one_request_only_still_answers_a_batch(handle):
    class Single(Doubler):
        def postprocess(self, data):
            return [data[0]]

    assert handle(Single(), 1, 2) == ([1, 2], [200, 200])


@pytest.mark.parametrize("config", [{"sequenceBatching": True}, {"sequenceMaxIdleMSec": 1000}])
def test_stateful_models_are_never_run_twice(handle, config):
    handler = Doubler()
    handler.model_yaml_config = config
    _, statuses = handle(handler, 1, "bad")
    assert statuses == [400, 400]
    assert len(handler.seen) == 1


def test_isolation_can_be_left_off(handle):
    handler = Doubler()
    handler.isolate_errors = False
    assert handle(handler, 1, "bad")[1] == [400, 400]
    assert len(handler.seen) == 1


def test_continuous_batching_leaves_errors_to_the_worker(handle):
    handler = Doubler()
    handler.model_yaml_config = {"continuousBatching": True}
    with pytest.raises(BadInputError):
        handle(handler, 1, "bad")


def test_outside_a_worker_errors_are_raised(make_context):
    with pytest.raises(BadInputError):
        Doubler().handle(rows("bad"), make_context())
    with pytest.raises(BadInputError):
        Doubler().handle(rows("bad", 1), None)
    assert Doubler().handle(rows(1), SimpleNamespace()) == [2]


def test_an_envelope_that_makes_several_rows_of_one_request(make_context):
    context = make_context(requests=1)
    assert Doubler().handle(rows(1, 2), context) == [2, 4]
    good, bad = Doubler().handle(rows(1, "bad"), context)
    assert (good, bad["code"]) == (2, 400)
    assert context.get_response_status(0) == (400, "Bad Request")


def test_an_envelope_that_makes_rows_of_several_requests(make_context):
    context = make_context(requests=2)
    assert Doubler().handle(rows(1, 2, 3), context) == [2, 4, 6]
    with pytest.raises(BadInputError):
        Doubler().handle(rows(1, 2, "bad"), context)


def test_the_rows_of_one_request_are_explained_together(make_context):
    class Together(Explaining):
        def explain_handle(self, data_preprocess, raw_data):
            return list(data_preprocess)

    context = make_context(requests=1, headers={0: {"explain": "True"}})
    assert Together().handle(rows(1, 2), context) == [1, 2]


def test_an_empty_batch(make_context):
    assert Doubler().handle([], make_context()) == []
    assert Doubler().handle(None, make_context()) == []


def test_the_time_of_a_batch_is_recorded(handle):
    recorded = []
    metrics = SimpleNamespace(add_time=lambda *arguments: recorded.append(arguments))
    handle(Doubler(), 1, metrics=metrics)
    ((name, milliseconds, index, unit),) = recorded
    assert (name, index, unit) == ("HandlerTime", None, "ms")
    assert milliseconds >= 0


def test_the_steps_are_recorded_if_the_configuration_says_so(handle):
    recorded = []
    metrics = SimpleNamespace(add_time=lambda name, *_: recorded.append(name))
    handler = Doubler()
    handler.model_yaml_config = {"handler": {"profile": True}}
    handle(handler, 1, metrics=metrics)
    assert recorded == ["ts_handler_preprocess", "ts_handler_inference", "ts_handler_postprocess", "HandlerTime"]


def test_describe(handle):
    class Described(Doubler):
        def describe_handle(self):
            return {"about": "doubles"}

    assert handle(Described(), None, headers={0: {"describe": "True"}})[0] == [{"about": "doubles"}]
    assert handle(Doubler(), None, headers={0: {"describe": "True"}})[0] == [None]


class Explaining(Doubler):
    def get_insights(self, tensor_data, raw_data, target):
        assert self.explain
        return [[tensor_data, raw_data, target]]


def test_explanations_and_predictions_in_one_batch(handle):
    explained = {"explain": "True"}
    headers = {0: {"explain": "False"}, 1: explained, 3: explained}
    output, statuses = handle(Explaining(), 1, 2, "bad", "bug", headers=headers)
    assert output[:2] == [2, [[2], 2, 0]]
    assert statuses == [200, 200, 400, 503]


def test_each_explanation_has_its_own_target(make_context):
    context = make_context(requests=2, headers={0: {"explain": "True"}, 1: {"explain": "True"}})
    data = [{"body": 1, "target": 5}, {"data": 2, "body": 2}]
    assert Explaining().handle(data, context) == [[[1], 1, 5], [[2], 2, 0]]


@pytest.mark.parametrize(
    ("row", "target"),
    [
        ({"body": b"x"}, 0),
        ({"body": b"x", "target": ""}, 0),
        ({"data": b"x", "target": bytearray(b"3")}, b"3"),
        ({"body": {"text": "x", "target": 3}}, 3),
        ({"body": {"target": 3}, "target": "4"}, "4"),
        ({"body": {"text": "x"}}, 0),
        ("x", 0),
    ],
)
def test_where_the_target_stands(row, target):
    class Target(BaseHandler):
        def get_insights(self, tensor_data, raw_data, target):
            return [target]

    assert Target().explain_handle(None, [row]) == [target]


def test_a_handlers_own_rule_for_explanations_counts(handle):
    class Own(Explaining):
        def _is_explain(self):
            self.explain = self.context.get_request_header(0, "why") is not None
            return self.explain

    assert handle(Own(), 1, 2, headers={1: {"why": ""}})[0] == [2, [[2], 2, 0]]


def test_by_default_nothing_is_explained(handle):
    output, statuses = handle(Doubler(), 1, headers={0: {"explain": "True"}})
    assert statuses == [501]
    assert output[0]["type"] == "NotSupportedError"
    with pytest.raises(NotSupportedError):
        Doubler().get_insights(None, None, 0)


def test_a_status_of_ones_own(handle):
    class Strict(Doubler):
        def preprocess(self, data):
            raise RequestError("slow down", status=429)

    assert handle(Strict(), 1)[1] == [429]


def test_traces(handle, monkeypatch, tmp_path):
    monkeypatch.setenv("ENABLE_TORCH_PROFILER", "1")
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    handler = Doubler()
    handler.manifest = {"model": {"modelName": "doubler"}}
    assert handle(handler, 1, "bad", 2) == (
        [2, {"code": 400, "type": "BadInputError", "message": "not a number"}, 4],
        [200, 400, 200],
    )
    assert list((tmp_path / "pytorch_profiler" / "doubler").iterdir())


def test_a_handler_may_have_names_that_the_template_might(handle):
    class Named(Doubler):
        _base = "https://a.service"

        def preprocess_one(self, data, context):
            return data

    assert handle(Named(), 1, 2) == ([2, 4], [200, 200])
