import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from handlers import BaseHandler, LoadError
from handlers.optimization.optimized_model import OptimizedModel


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
