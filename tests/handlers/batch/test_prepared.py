"""The two halves of `handle`, and which threads may run them at once."""

import copy
import pickle
import threading
from functools import partial
from types import ModuleType, SimpleNamespace

import pytest
import torch

from handlers import BadInputError, BaseHandler, ImageClassifier
from handlers.batch.prepared import Prepared, is_computed, is_sdks


class Doubler(BaseHandler):
    """A handler that doubles numbers, and keeps a diary of the hooks that ran."""

    def __init__(self):
        super().__init__()
        self.diary = []

    def preprocess(self, data):
        self.diary.append("preprocess")
        values = [row["body"] for row in data]
        if "bad" in values:
            raise BadInputError("not a number")
        if "memory" in values:
            raise MemoryError
        return values

    def inference(self, data):
        self.diary.append("inference")
        return data

    def postprocess(self, data):
        self.diary.append("postprocess")
        return [2 * value for value in data]

    def explain_handle(self, data_preprocess, raw_data):
        self.diary.append("explain")
        return [["because", *data_preprocess]]

    def describe_handle(self):
        self.diary.append("describe")
        return {"about": "doubles"}


def rows(*values):
    return [{"body": value} for value in values]


def test_the_first_half_is_preprocess_and_the_second_is_the_rest(make_context):
    handler, context = Doubler(), make_context(requests=2)
    prepared = handler.prepare(rows(1, 2), context)
    assert handler.diary == ["preprocess"]
    assert (prepared.done, prepared.value, prepared.error) == (True, [1, 2], None)
    assert handler.complete(prepared, context) == [2, 4]
    assert handler.diary == ["preprocess", "inference", "postprocess"]


def test_a_bad_request_is_found_by_the_second_half_and_fails_alone(make_context):
    handler, context = Doubler(), make_context(requests=3)
    prepared = handler.prepare(rows(1, "bad", 3), context)
    assert isinstance(prepared.error, BadInputError)
    first, second, third = handler.complete(prepared, context)
    assert (first, third) == (2, 6)
    assert second == {"code": 400, "type": "BadInputError", "message": "not a number"}
    assert [context.get_response_status(index)[0] for index in range(3)] == [200, 400, 200]


def test_a_bad_request_alone_is_not_run_again(make_context):
    handler, context = Doubler(), make_context(requests=1)
    (item,) = handler.complete(handler.prepare(rows("bad"), context), context)
    assert item["code"] == 400
    assert handler.diary == ["preprocess"]


def test_no_memory_is_raised_by_the_second_half(make_context):
    handler, context = Doubler(), make_context(requests=2)
    prepared = handler.prepare(rows(1, "memory"), context)
    with pytest.raises(MemoryError):
        handler.complete(prepared, context)


@pytest.mark.parametrize(
    ("data", "requests", "config", "headers", "expected"),
    [
        (rows(1, 2), 2, {"continuousBatching": True}, {}, [2, 4]),
        (rows(1, 2), 2, {}, {1: {"explain": "True"}}, [2, ["because", 2]]),
        (rows(1), 1, {}, {0: {"describe": "True"}}, [{"about": "doubles"}]),
        (rows(1, 2), 1, {}, {}, [2, 4]),  # an envelope made two rows of one request
        (rows(1, 2, 3), 2, {}, {}, [2, 4, 6]),
        (rows(1), 0, {}, {}, [2]),
        ([], 0, {}, {}, []),
        (None, 0, {}, {}, []),
    ],
)
def test_what_is_no_plain_prediction_is_left_to_the_second_half(
    make_context, data, requests, config, headers, expected
):
    handler, context = Doubler(), make_context(requests=requests, headers=headers)
    handler.model_yaml_config = config
    prepared = handler.prepare(data, context)
    assert not prepared.done
    assert handler.diary == []
    assert handler.complete(prepared, context) == expected


def test_a_traced_batch_is_left_to_the_second_half(make_context, monkeypatch):
    monkeypatch.setenv("ENABLE_TORCH_PROFILER", "1")
    assert not Doubler().prepare(rows(1), make_context(requests=1)).done


def test_the_time_of_both_halves_is_recorded(make_context):
    recorded = []
    context = make_context(requests=1)
    context.metrics = SimpleNamespace(add_time=lambda *arguments: recorded.append(arguments))
    handler = Doubler()
    prepared = handler.prepare(rows(1), context)
    assert recorded == []
    prepared.seconds = 5.0
    handler.complete(prepared, context)
    ((name, milliseconds, _, unit),) = recorded
    assert (name, unit) == ("HandlerTime", "ms")
    assert 5000 <= milliseconds < 65_000


def test_a_value_is_taken_once():
    prepared = Prepared([], value=[1])
    assert prepared.take() == [1]
    assert prepared.value is None


def test_methods_of_these_names_that_mean_something_else_do_no_harm(make_context):
    class Kitchen(Doubler):
        def prepare(self, vegetables):
            raise AssertionError

        def complete(self):
            raise AssertionError

    assert Kitchen().handle(rows(1), make_context(requests=1)) == [2]
    assert not Kitchen().may_pipeline(True)


# ---- the context ---------------------------------------------------------------------------------------------------


def test_each_thread_sees_the_context_of_its_batch(make_context):
    entered, release = threading.Event(), threading.Event()

    class Looking(Doubler):
        def preprocess(self, data):
            if data[0]["body"] == 2:
                entered.set()
                assert release.wait(60)
            return [self.context.get_request_header(0, "name")]

        def inference(self, data):
            return [*data, self.context.get_request_header(0, "name")]

        def postprocess(self, data):
            return ["".join([*data, self.context.get_request_header(0, "name")])]

    handler = Looking()
    one, two = (make_context(requests=1, headers={0: {"name": name}}) for name in "ab")
    first = handler.prepare(rows(1), one)
    results = []
    thread = threading.Thread(target=lambda: results.append(handler.prepare(rows(2), two)))
    thread.start()
    assert entered.wait(60)
    assert handler.complete(first, one) == ["aaa"]
    assert handler.context is one
    release.set()
    thread.join()
    assert handler.context is one
    assert handler.complete(results[0], two) == ["bbb"]
    assert handler.context is two


def test_threads_of_a_hook_see_the_context_of_the_batch(make_context):
    class Pooled(Doubler):
        def preprocess(self, data):
            names = []
            look = threading.Thread(target=lambda: names.append(self.context.get_request_header(0, "name")))
            look.start()
            look.join()
            return names

        def postprocess(self, data):
            return data

    for name in "ab":
        assert Pooled().handle(rows(1), make_context(requests=1, headers={0: {"name": name}})) == [name]


def test_the_context_can_be_set(make_context):
    one, two, three = make_context(), make_context(requests=1), make_context()

    class Setting(Doubler):
        def preprocess(self, data):
            assert self.context is two
            self.context = three
            assert self.context is three
            assert other.context is one
            return super().preprocess(data)

    handler, other = Setting(), Doubler()
    handler.context = other.context = one
    handler.prepare(rows(1), two)
    assert handler.context is one
    handler.handle(rows(1), two)
    assert handler.context is two


def test_a_handler_without_the_base_constructor_has_a_context(make_context):
    class Bare(Doubler):
        def __init__(self):
            self.diary = []
            self.model_yaml_config = {}

    handler = Bare()
    assert handler.context is None
    assert handler.handle(rows(1), make_context(requests=1)) == [2]


def test_handlers_can_be_copied_and_pickled():
    handler = BaseHandler()
    handler.context = SimpleNamespace(name="context")
    assert copy.deepcopy(handler).context.name == "context"
    assert pickle.loads(pickle.dumps(handler)).context.name == "context"


# ---- which threads may -----------------------------------------------------------------------------------------------


class Plain(BaseHandler):
    def inference(self, data):
        self.last = data
        return data

    def postprocess(self, data):
        return self.last.tolist()


class Careful(Doubler):
    pipelined = True


class Careless(Plain):
    pipelined = False


class Whole(BaseHandler):
    pipelined = True

    def handle(self, data, context):
        return super().handle(data, context)


class Half(BaseHandler):
    pipelined = True

    def complete(self, prepared, context):
        return super().complete(prepared, context)


class Holding(BaseHandler):
    pipelined = True
    context = None


class Reasons(BaseHandler):
    def _is_explain(self):
        self.explain = self.context.get_request_header(0, "why") is not None
        return self.explain


class Digits(ImageClassifier):
    image_processing = torch.nn.Identity()


class Sized(ImageClassifier):
    def image_processing(self, image):
        self.size = image.size
        return image


class Processing(ImageClassifier):
    def _process(self, image):
        self.size = image.size
        return super()._process(image)


class Computed(ImageClassifier):
    @property
    def image_processing(self):
        return torch.nn.Identity()


@pytest.mark.parametrize(
    ("kind", "by_itself", "if_told"),
    [
        (BaseHandler, True, True),
        (ImageClassifier, True, True),
        (Plain, True, True),
        (Digits, True, True),
        (type("ImageClassifier", (ImageClassifier,), {"__module__": "image_classifier"}), True, True),
        (Doubler, False, True),
        (Careful, True, True),
        (Careless, False, True),
        (Reasons, False, True),
        (Sized, False, True),
        (Processing, False, True),
        (Computed, False, True),
        (Whole, False, False),
        (Half, False, False),
        (Holding, False, False),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_who_may_be_pipelined(kind, by_itself, if_told):
    handler = kind()
    assert handler.may_pipeline() is by_itself
    assert handler.may_pipeline(None) is by_itself
    assert handler.may_pipeline(True) is if_told
    assert handler.may_pipeline(False) is False


def test_what_an_instance_replaces_counts():
    handler = BaseHandler()
    handler.preprocess = lambda data: data
    assert not handler.may_pipeline()
    handler = BaseHandler()
    handler.handle = ModuleType("micro_batching")
    assert not handler.may_pipeline(True)


def test_hooks_of_the_sdk():
    assert is_sdks(BaseHandler().preprocess)
    assert is_sdks(ImageClassifier.preprocess)
    assert not is_sdks(Doubler().preprocess)
    assert not is_sdks(partial(print))
    assert not is_sdks(torch.stack)


def test_computed_attributes():
    class Kind:
        value = 1
        static = staticmethod(len)

        @property
        def prop(self):
            raise AssertionError

        @classmethod
        def of_class(cls):
            raise AssertionError

        def method(self):
            raise AssertionError

    names = ("value", "static", "prop", "of_class", "method", "missing")
    assert [name for name in names if is_computed(Kind(), name)] == ["prop", "of_class", "method"]
