"""What a model is loaded from is in test_base.py; here is what stands by itself."""

from types import SimpleNamespace

import torch

from handlers import BaseHandler
from handlers.model_holder import ModelHolder
from handlers.prepared import Preparation, current


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
