"""What stands by itself in a holder, and what is made of a loaded model; what it is loaded from is in test_base.py."""

import os
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from handlers import BaseHandler, ImageClassifier, LoadError, ObjectDetector
from handlers.batch.prepared import Preparation, current
from handlers.model_holder import ModelHolder
from handlers.optimization import compile_cache
from handlers.optimization.optimized_model import OptimizedModel


def test_it_is_a_part_of_every_handler(tmp_path):
    holder, context = ModelHolder(), SimpleNamespace(system_properties={"model_dir": str(tmp_path)}, manifest=None)
    holder.initialize(context)
    assert (holder.initialized, holder.model, holder.get_device()) == (True, None, torch.device("cpu"))
    assert holder.context is context
    assert issubclass(BaseHandler, ModelHolder)


def test_the_context_of_a_batch_that_is_prepared_hides_the_other_in_its_thread():
    holder = ModelHolder()
    holder.context = "worker's"
    token = current.set(Preparation(holder, "batch's"))
    try:
        assert holder.context == "batch's"
        holder.context = "another"
        assert holder.context == "another"
        assert ModelHolder().context is None
    finally:
        current.reset(token)
    assert holder.context == "worker's"


def test_a_handler_that_calls_neither_constructor_nor_initialize_of_its_base(make_context):
    """As some of TorchServe's do: they set what they need themselves."""

    class Own(BaseHandler):
        def __init__(self):
            self.initialized = False

        def initialize(self, context):
            self.model, self.device, self.initialized = torch.nn.Identity(), torch.device("cpu"), True

        def preprocess(self, data):
            return torch.ones(len(data), 2)

    handler = Own()
    handler.initialize(make_context())
    assert handler.handle([{"body": b"x"}, {"body": b"y"}], make_context(requests=2)) == [[1.0, 1.0], [1.0, 1.0]]


# ---- the section optimize ------------------------------------------------------------------------------------------

CLASSIFIER = """
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 2, 3)
            self.head = nn.Linear(2, 3)

        def forward(self, x):
            return self.head(self.conv(x).mean((2, 3)))
"""


@pytest.fixture
def load(archives, make_context):
    """Load a classifier with a section `optimize`."""

    def make(kind=ImageClassifier, *, model_file=CLASSIFIER, weights=None, config=None, **section):
        folder = archives.make(model_file=model_file, weights=weights)
        handler = kind()
        torch.manual_seed(0)
        handler.initialize(make_context(folder, config={"optimize": section} | (config or {})))
        return handler

    return make


def test_a_handler_answers_with_the_optimized_model(load, make_context, picture):
    request = [{"body": picture()}]
    (expected,) = load().handle(request, make_context(requests=1))
    handler = load(dtype="bfloat16", channels_last=True, compile="eager")
    assert isinstance(handler.model, OptimizedModel)
    (found,) = handler.handle(request, make_context(requests=1))
    assert handler.model.serving == "bfloat16, channels_last, eager"
    assert handler._eager_model is None
    assert found == pytest.approx(expected, abs=0.02)
    assert found != expected


def test_explanations_are_made_by_the_model_without_its_compiler(load, make_context, picture, monkeypatch):
    handler, plain = load(dtype="bfloat16", compile="eager"), load()
    request = [{"body": picture(), "target": bytearray(b"1")}]
    explain = {0: {"explain": "True"}}
    (expected,) = plain.handle(request, make_context(requests=1, headers=explain))
    (before,) = handler.handle(request, make_context(requests=1, headers=explain))
    assert before == expected
    handler.handle(request, make_context(requests=1))
    assert handler.model.serving == "bfloat16, eager"
    (after,) = handler.handle(request, make_context(requests=1, headers=explain))
    difference = (torch.tensor(after) - torch.tensor(expected)).abs().max()
    assert 0 < difference < 0.05 * torch.tensor(expected).abs().max()


def test_attributions_of_a_layer(load, make_context, picture):
    class Layered(ImageClassifier):
        def get_insights(self, tensor_data, raw_data, target=0):
            from captum.attr import LayerGradCam

            return LayerGradCam(self.model, self.model.conv).attribute(tensor_data, target=0).tolist()

    handler = load(Layered, dtype="bfloat16", compile="eager")
    request = [{"body": picture()}]
    handler.handle(request, make_context(requests=1))
    assert handler.model.serving == "bfloat16, eager"
    (found,) = handler.handle(request, make_context(requests=1, headers={0: {"explain": "True"}}))
    assert torch.tensor(found).shape == (1, 222, 222)


def test_what_is_wrong_in_the_section_is_told_before_anything_is_loaded(load):
    with pytest.raises(LoadError, match=r"optimize\.dtype"):
        load(dtype="int8", model_file="raise SystemExit('too late')")


def test_detectors_as_torchscript(load, make_context, picture):
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 1, 1)

        def forward(self, pictures: list[torch.Tensor]) -> list[dict[str, torch.Tensor]]:
            found: list[dict[str, torch.Tensor]] = []
            for one in pictures:
                score = self.conv(one[None]).mean().sigmoid()
                found.append({"boxes": torch.ones(1, 4), "labels": torch.ones(1).long(), "scores": score[None]})
            return found

    handler = load(ObjectDetector, model_file=None, weights=torch.jit.script(Detector()), dtype="bfloat16")
    handler.threshold = 0.0
    ((found,),) = handler.handle([{"body": picture()}], make_context(requests=1))
    assert found["1"] == [1.0] * 4
    assert handler.model.serving == "bfloat16"


@pytest.mark.parametrize(
    ("section", "pt2", "used"),
    [
        ({"compile": True}, None, True),
        ({"compile": "eager"}, None, False),
        ({"dtype": "bfloat16"}, None, False),
        ({"dtype": "bfloat16"}, "inductor", True),
        ({}, {"compile": {"enable": True}}, True),
        ({}, "eager", False),
    ],
)
def test_what_inductor_makes_is_kept(load, tmp_path, monkeypatch, section, pt2, used):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in (compile_cache.VARIABLE, "TORCH_WARM_POOL"):
        monkeypatch.setenv(name, "to be put back")
        monkeypatch.delenv(name)
    load(config={"pt2": pt2}, **section)
    # torch sets its own default as soon as it looks there.
    assert os.environ.get(compile_cache.VARIABLE, "").startswith(str(tmp_path)) is used
    assert (tmp_path / "cache" / "torchmar").exists() is used
