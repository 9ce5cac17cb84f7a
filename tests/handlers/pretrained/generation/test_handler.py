"""Texts that are written on: the pipeline's, in batches, in parts, and step by step as continuous batching has it."""

import json

import pytest
import torch

from handlers.errors import LoadError
from handlers.fake_context import Request
from tests.handlers.pretrained.models import make_writer, save

TEXTS = ["the rain in spain", "a", "hello there, how are you doing today my friend? the rain"]
USER = {"role": "user", "content": "hi"}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("writer"), *make_writer("Llama"))


@pytest.fixture(scope="module")
def writer(serve, saved):
    return serve(saved)


def asked(text, stream=False, **parameters):
    return {"inputs": text, "parameters": {"max_new_tokens": 8, **parameters}, "stream": stream}


def events(reply):
    return [json.loads(one.removeprefix("data: ")) for one in reply.split("\n\n") if one]


PIPED = [
    {"do_sample": False},
    {"do_sample": True, "temperature": 0.9, "top_k": 50, "seed": 5},
    {"do_sample": True, "top_p": 0.8, "top_k": 20, "temperature": 1.2, "repetition_penalty": 1.3, "seed": 7},
    {"do_sample": False, "no_repeat_ngram_size": 1, "min_new_tokens": 8, "suppress_tokens": [65, 66]},
    {"do_sample": False, "num_beams": 3},
]


@pytest.mark.parametrize("parameters", PIPED)
def test_answers_are_those_of_the_pipeline(writer, saved, pipe, parameters):
    line = pipe("text-generation", saved)
    given = {"temperature": 1.0, "top_k": 50, **parameters}
    seed = given.pop("seed", None)
    expected = []
    for text in TEXTS:
        torch.manual_seed(seed or 0)
        expected.append(line(text, max_new_tokens=8, **given))
    # All in one batch, whose neighbours change nothing.
    assert writer.ask(*(asked(text, **parameters) for text in TEXTS)).replies == expected
    assert writer.one(asked(TEXTS, **parameters)) == expected


def test_details(writer):
    (found,) = writer.one(asked("the", details=True, temperature=0.7, seed=3, return_full_text=False))
    text = found["generated_text"]
    assert found["details"] == {"finish_reason": "length", "prompt_tokens": 1, "generated_tokens": 8, "seed": 3}
    (found,) = writer.one(asked("the", details=True, top_n_tokens=2))
    tokens = found["details"]["tokens"]
    assert "the" + "".join(one["text"] for one in tokens) == found["generated_text"] != "the" + text
    assert all(one["top"][0]["id"] == one["id"] and len(one["top"]) == 2 for one in tokens)
    assert all(one["logprob"] == one["top"][0]["logprob"] < 0 for one in tokens)
    assert found["details"]["seed"] is None


def test_a_stream(writer):
    whole, stream, plain = writer.ask(
        asked("the", return_full_text=False, details=True),
        asked("the", stream=True),
        Request({"body": asked("the", stream=True)}, {"content-type": "application/json", "accept": "text/plain"}),
    ).replies
    found = events(stream)
    assert len(found) == 8
    assert {json.dumps([one["generated_text"], one["details"]]) for one in found[:-1]} == {"[null, null]"}
    assert found[-1]["details"] == whole[0]["details"]
    assert found[-1]["generated_text"] == whole[0]["generated_text"] == plain
    assert "".join(one["token"]["text"] for one in found) == plain
    assert writer.context.get_response_content_type(1) == "text/event-stream"
    assert writer.context.get_response_content_type(2) == "text/plain; charset=utf-8"


def test_ends_and_stops(writer):
    ids = [one["id"] for one in writer.one(asked("the", details=True, logprobs=True))[0]["details"]["tokens"]]
    text = writer.one(asked("the", return_full_text=False))[0]["generated_text"]
    handler = writer.handler
    before = handler.model.generation_config.eos_token_id
    handler.model.generation_config.eos_token_id = [ids[2]]
    try:
        (found,) = writer.one(asked("the", details=True, logprobs=True))
    finally:
        handler.model.generation_config.eos_token_id = before
    assert (found["details"]["finish_reason"], found["details"]["generated_tokens"]) == ("eos_token", 3)
    assert found["details"]["tokens"][-1]["text"] == ""
    (found,) = writer.one(asked("the", details=True, stop=text[1:3], return_full_text=False))
    assert (found["generated_text"], found["details"]["finish_reason"]) == (text[:1], "stop_sequence")


def test_several_answers_and_chats(writer):
    several = writer.one(asked("the", num_return_sequences=3, temperature=1.5, seed=4, details=True))
    assert [one["details"]["seed"] for one in several] == [4, 5, 6]
    assert several[1] == writer.one(asked("the", temperature=1.5, seed=5, details=True))[0]
    chat = writer.one({"messages": [USER], "parameters": {"max_new_tokens": 8}})
    assert chat == writer.one(asked("user: hi\nassistant: ", return_full_text=False))


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"max_new_tokens": 5000}, "at most 1024 are written"),
        ({"num_beams": 40}, "at most 16"),
        ({"num_beams": 2, "stop": "a"}, "num_beams does not go together with stop"),
        ({"bad_words_ids": [[9999]]}, "bad_words_ids has the token 9999, and the model has"),
        ({"min_new_tokens": 9, "seed": -1}, "seed is -1: send a whole number from 0 on"),
        ({"foo": 1}, "'foo' is no parameter"),
    ],
)
def test_bad_parameters(writer, parameters, said):
    answered = writer.ask(asked("the", **parameters), asked("the"))
    assert answered.statuses == [400, 200]
    assert said in answered.replies[0]["message"]


def test_the_archive_sets_what_a_request_does_not(serve, saved):
    served = serve(saved, {"handler": {"max_new_tokens": 3, "details": True, "most_new_tokens": 4}})
    assert served.one("the")[0]["details"]["generated_tokens"] == 3
    assert served.ask({"inputs": "a", "parameters": {"max_new_tokens": 5}}).statuses == [400]
    served = serve(saved, {"handler": {"most_tokens": 12}})
    (found,) = served.one({"inputs": "the", "parameters": {"details": True}})
    assert found["details"]["generated_tokens"] == 11
    assert served.ask({"inputs": "the" * 12}).statuses == [413]
    with pytest.raises(LoadError, match=r"handler\.top_p"):
        serve(saved, {"handler": {"top_p": 3}})


def test_a_build_writes_the_mode(writer):
    text = (writer.folder / "model-config.yaml").read_text()
    assert text.split() == ["continuousBatching:", "true", "batchSize:", "32", "maxBatchDelay:", "1"]


class Stepping:
    """The frontend's part of continuous batching: every message has all that are under way."""

    def __init__(self, served):
        self.served = served
        self.served.context.cl_socket = object()
        self.waiting = {}
        self.replies = {}
        self.statuses = {}

    def add(self, name, request):
        self.waiting[name] = request
        self.replies[name] = ""

    def step(self):
        """Return what was said about each request."""
        context, handler = self.served.context, self.served.handler
        names = [*self.waiting]
        begun = [name for name in names if self.replies[name]]
        rows = context.show([Request({}, {"x": "y"}) if name in begun else self.waiting[name] for name in names])
        context.request_ids = dict(enumerate(names))
        replies = handler.handle(rows, context)
        said = {}
        for index, (name, reply) in enumerate(zip(names, replies, strict=True)):
            stop = context.stopping_criteria[index](reply)
            said[name] = reply
            if isinstance(reply, bytes | str):
                self.replies[name] += reply if isinstance(reply, str) else reply.decode()
            else:
                self.replies[name] = reply
            self.statuses[name] = context.get_response_status(index)[0]
            if stop is not False:
                del self.waiting[name]
        return said

    def finish(self):
        for _ in range(100):
            if not self.waiting:
                return
            self.step()
        raise AssertionError("it does not end")


@pytest.fixture
def stepping(serve, saved):
    return Stepping(serve(saved, {"continuousBatching": True, "handler": {"most_sequences": 2}}))


def test_requests_join_between_two_tokens(stepping, writer):
    stepping.add("a", asked(TEXTS[0], stream=True))
    first = stepping.step()
    assert len(events(first["a"])) == 1
    stepping.add("b", asked(TEXTS[1]))
    stepping.add("c", asked(TEXTS[2], top_p=9))
    stepping.add("d", asked(TEXTS[2]))
    said = stepping.step()
    assert stepping.statuses["c"] == 400
    assert said["b"] == b""
    assert said["b"].nothing_yet
    stepping.finish()
    assert (
        events(stepping.replies["a"])[-1]["generated_text"]
        == writer.one(asked(TEXTS[0], return_full_text=False))[0]["generated_text"]
    )
    assert stepping.replies["b"] == writer.one(asked(TEXTS[1]))
    assert stepping.replies["d"] == writer.one(asked(TEXTS[2]))
    assert not stepping.served.handler._known


def test_who_leaves_frees_the_place(stepping):
    for name in ("a", "b"):
        stepping.add(name, asked("the", stream=True, max_new_tokens=90))
    stepping.add("c", asked("the", max_new_tokens=2))
    stepping.step()
    del stepping.waiting["a"]
    stepping.step()
    stepping.step()
    assert "c" not in stepping.waiting
    assert len(stepping.served.handler.writer) == 1


def test_a_stream_of_a_worker_that_has_ended(stepping):
    stepping.add("a", asked("the", stream=True))
    stepping.replies["a"] = "begun elsewhere"
    stepping.step()
    assert stepping.statuses["a"] == 503
    assert "has ended" in stepping.replies["a"]["message"]


def test_an_error_after_the_start_of_a_stream(stepping, monkeypatch):
    stepping.add("a", asked("the", stream=True))
    stepping.add("b", asked("the"))
    stepping.step()

    def fail(_):
        raise RuntimeError("the accelerator is gone")

    monkeypatch.setattr(stepping.served.handler.writer._rows, "step", fail)
    stepping.step()
    assert events(stepping.replies["a"])[-1]["error_type"] == "InternalServerException"
    assert stepping.statuses["b"] == 503
    assert not stepping.waiting
    assert len(stepping.served.handler.writer) == 0


def test_a_description_comes_between(stepping):
    stepping.add("a", asked("the", stream=True))
    stepping.step()
    context = stepping.served.context
    rows = context.show([Request({}, {"describe": "True"})])
    (found,) = stepping.served.handler.handle(rows, context)
    assert found["chat"] is True
    assert found["limits"]["most_sequences"] == 2
    assert context.stopping_criteria is None
    stepping.finish()


def test_a_time_holds_for_several_beams_too(writer):
    (found,) = writer.one(asked("the", details=True, num_beams=4, max_new_tokens=40, max_time=1e-6))
    assert found["details"]["generated_tokens"] == 1
    (found,) = writer.one(asked("the", details=True, num_beams=4, max_new_tokens=40, max_time=1000))
    assert found["details"]["generated_tokens"] > 1
