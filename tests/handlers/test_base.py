import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from handlers import BadInputError, BaseHandler, LoadError, NotSupportedError, RequestError
from handlers.optimization.optimized_model import OptimizedModel


class Doubler(BaseHandler):
    """Doubles numbers without a model, and keeps a diary of the batches that each hook saw."""

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
    """Handle a batch with the stock's context; give the replies and their statuses."""

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


def test_attributes_before_initialize():
    stock = {"model", "mapping", "device", "initialized", "context", "model_pt_path", "manifest", "map_location"}
    handler = BaseHandler()
    assert {name: getattr(handler, name) for name in stock} == dict.fromkeys(stock) | {"initialized": False}
    assert (handler.explain, handler.target, handler.profiler_args) == (False, 0, {})
    assert handler.get_device() is None


NET = """
    from torch import nn

    class Net(nn.Linear):
        def __init__(self):
            super().__init__(3, 2)
"""


@pytest.fixture
def linear():
    torch.manual_seed(0)
    return nn.Linear(3, 2).eval()


CONVOLUTIONS = """
    from torch import nn

    class Net(nn.Sequential):
        def __init__(self):
            super().__init__(*(nn.Conv2d(1, 1, 3) for _ in range(8)))
"""


class OwnInference(BaseHandler):
    def inference(self, data, *args, **kwargs):
        return super().inference(data, *args, **kwargs)


class OwnInitialize(BaseHandler):
    def initialize(self, context):
        super().initialize(context)


class OwnInsights(BaseHandler):
    def get_insights(self, tensor_data, raw_data, target=0):
        return []


class OwnRest(BaseHandler):
    def preprocess(self, data):
        return data

    def postprocess(self, data):
        return data


@pytest.mark.parametrize(
    ("kind", "config", "optimized"),
    [
        (BaseHandler, {}, True),
        (OwnRest, {}, True),
        (OwnInference, {}, False),
        (OwnInitialize, {}, False),
        (OwnInsights, {}, False),
        (BaseHandler, {"optimize": {"channels_last": False}}, False),
        (BaseHandler, {"pt2": "eager"}, False),
    ],
)
def test_a_net_of_convolutions_that_only_the_sdk_runs_is_optimized_unasked(
    archives, make_context, kind, config, optimized
):
    net = nn.Sequential(*(nn.Conv2d(1, 1, 3) for _ in range(8)))
    handler = kind()
    handler.initialize(make_context(archives.make(model_file=CONVOLUTIONS, weights=net.state_dict()), config=config))
    assert isinstance(handler.model, OptimizedModel) is optimized


@pytest.mark.parametrize("names_classes", [False, True])
def test_names_that_are_missing_are_worth_a_word_where_answers_name_classes(
    archives, make_context, linear, caplog, names_classes
):
    handler = BaseHandler()
    handler.names_classes = names_classes
    handler.initialize(make_context(archives.make(model_file=NET, weights=linear.state_dict())))
    assert handler.mapping is None
    warned = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert ["index_to_name.json is missing" in line for line in warned] == [True] * names_classes


def test_initialize_loads_an_eager_model(archives, make_context, linear, caplog):
    caplog.set_level(logging.INFO, "handlers")
    folder = archives.make(model_file=NET, weights=linear.state_dict(), labels={"0": "no", "1": "yes"})
    handler, context = BaseHandler(), make_context(folder)
    handler.initialize(context)
    assert handler.initialized
    assert handler.context is context
    assert handler.manifest is context.manifest
    assert handler.device == handler.get_device() == torch.device("cpu")
    assert handler.map_location == "cpu"
    assert handler.model_pt_path == str(folder / "weights.pt")
    assert handler.mapping == {"0": "no", "1": "yes"}
    assert not handler.model.training
    (record,) = [record for record in caplog.records if record.levelno == logging.INFO]
    for part in ("Net", "8 parameters", "float32", "weights.pt", "cpu"):
        assert part in record.getMessage()
    with torch.no_grad():
        expected = linear(torch.tensor([[1.0, 2, 3]])).tolist()
    assert handler.handle([{"body": [1, 2, 3]}], context) == expected


def test_initialize_loads_torchscript(archives, make_context, linear):
    handler = BaseHandler()
    context = make_context(archives.make(weights=torch.jit.script(linear)))
    handler.initialize(context)
    assert isinstance(handler.model, torch.jit.ScriptModule)
    with torch.no_grad():
        assert handler.handle([[1.0, 2, 3]], context) == linear(torch.tensor([[1.0, 2, 3]])).tolist()


def test_a_model_without_weights(archives, make_context):
    handler = BaseHandler()
    handler.initialize(make_context(archives.make(model_file=NET)))
    assert handler.model.weight.shape == (2, 3)


def test_neither_model_file_nor_weights(archives, make_context):
    with pytest.raises(LoadError, match="neither a model file nor a serialized file"):
        BaseHandler().initialize(make_context(archives.make()))


def test_no_manifest_no_configuration_no_labels(tmp_path):
    handler = BaseHandler()
    handler.initialize(SimpleNamespace(system_properties={"model_dir": str(tmp_path)}, manifest=None))
    assert handler.initialized
    assert handler.model is None
    with pytest.raises(RuntimeError, match="there is no model"):
        handler.inference(torch.ones(1))


def test_loading_hooks_of_a_subclass_are_used(archives, make_context, linear):
    class Own(BaseHandler):
        def _load_torchscript_model(self, model_pt_path):
            assert model_pt_path.endswith("weights.pt")
            return linear.train()

        def _load_pickled_model(self, model_dir, model_file, model_pt_path):
            return super()._load_pickled_model(model_dir, model_file, model_pt_path).double()

    own = Own()
    own.initialize(make_context(archives.make(weights={"anything": torch.ones(1)})))
    assert own.model is linear
    assert not linear.training
    own.initialize(make_context(archives.make(model_file=NET, weights=linear.state_dict())))
    assert own.model.weight.dtype == torch.float64


def test_code_in_a_checkpoint_runs_only_if_the_configuration_says_so(archives, make_context, linear):
    state = linear.state_dict()
    state["weight"].note = SimpleNamespace()
    state["weight"] = nn.Parameter(state["weight"])
    state["weight"].note = SimpleNamespace()
    folder = archives.make(model_file=NET, weights=state)
    with pytest.raises(LoadError, match="weights_only: false"):
        BaseHandler().initialize(make_context(folder))
    BaseHandler().initialize(make_context(folder, config={"handler": {"weights_only": False}}))


def test_the_model_is_compiled_if_the_configuration_says_so(archives, make_context, linear):
    handler = BaseHandler()
    folder = archives.make(model_file=NET, weights=linear.state_dict())
    handler.initialize(make_context(folder, config={"pt2": {"compile": {"enable": True, "backend": "eager"}}}))
    assert "Optimized" in type(handler.model).__name__
    assert torch.allclose(handler.inference(torch.ones(1, 3)), linear(torch.ones(1, 3)))


def test_a_compiler_that_fails_at_the_first_request_is_left_out(archives, make_context, linear, caplog):
    def broken(*_):
        raise ValueError("no C++ compiler")

    handler = BaseHandler()
    folder = archives.make(model_file=NET, weights=linear.state_dict())
    handler.initialize(make_context(folder, config={"pt2": {"backend": broken}}))
    for _ in range(2):
        assert torch.equal(handler.inference(torch.ones(1, 3)), linear(torch.ones(1, 3)))
    assert caplog.text.count("torch.compile failed") == 1


def test_a_models_own_error_is_not_taken_for_the_compilers(archives, make_context, linear):
    handler = BaseHandler()
    folder = archives.make(model_file=NET, weights=linear.state_dict())
    handler.initialize(make_context(folder, config={"pt2": "eager"}))
    compiled = handler.model
    with pytest.raises(RuntimeError):
        handler.inference(torch.ones(1, 7))
    assert handler.model is compiled


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("scripted", [False, True])
def test_the_workers_gpu_is_used(archives, make_context, linear, scripted):
    parts = {"weights": torch.jit.script(linear)} if scripted else {"model_file": NET, "weights": linear.state_dict()}
    handler, context = BaseHandler(), make_context(archives.make(**parts), gpu=0)
    handler.initialize(context)
    assert {parameter.device for parameter in handler.model.parameters()} == {torch.device("cuda:0")}
    with torch.no_grad():
        expected = linear(torch.tensor([[1.0, 2, 3]]))
    assert torch.allclose(torch.tensor(handler.handle([[1.0, 2, 3]], context)), expected, atol=1e-5)
