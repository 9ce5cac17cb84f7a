import json
from collections import Counter
from itertools import chain, repeat

import pytest
import torch
from torch import nn

from handlers import LoadError, TextGenerator
from handlers.text.text_generator import Generation

NET = "from torch import nn\nclass Net(nn.Identity): pass\n"
# [PAD] [UNK] [CLS] [SEP] are 0 to 3, these 4 to 9.
WORDS = "one two three four five six"


class Counting(nn.Module):
    """A model that counts on, and ends after six; also at padded positions, where its output must be ignored."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def forward(self, ids, mask):
        self.batches.append(tuple(ids.shape))
        following = torch.where(ids == 9, 3, ids + 1)
        following = torch.where(mask == 0, 4, following)
        return {"logits": 3 * nn.functional.one_hot(following, 10).float()}


class Socket:
    """A socket that keeps what a worker would send."""

    def __init__(self):
        self.frames = []

    def sendall(self, data):
        self.frames.append(bytes(data))


@pytest.fixture
def load(archives, make_context, make_tokenizer):
    def run(kind=TextGenerator, config=None, **options):
        folder = archives.make(model_file=NET)
        make_tokenizer(folder / "tokenizer.json", WORDS, **options)
        handler = kind()
        handler.initialize(make_context(folder, config=config or {}))
        handler.model = Counting()
        return handler

    return run


@pytest.fixture
def handler(load):
    return load()


@pytest.fixture
def ask(make_context):
    """Answer a batch; return the replies and the context."""

    def run(handler, *bodies, headers=True, socket=None):
        sent = {index: {"host": "here"} for index in range(len(bodies))} if headers else {}
        context = make_context(requests=len(bodies), headers=sent)
        context.cl_socket = socket
        return handler.handle([{"body": body} for body in bodies], context), context

    return run


def test_a_text_is_continued_until_it_ends(handler, ask):
    ((reply,), _) = ask(handler, "one two")
    assert reply == {"text": " three four five six", "tokens": 4, "finish_reason": "stop"}
    assert len(handler.model.batches) == 5


def test_or_until_it_is_long_enough(handler, ask):
    ((reply,), _) = ask(handler, {"prompt": "one", "max_new_tokens": 2})
    assert reply == {"text": " two three", "tokens": 2, "finish_reason": "length"}
    handler.max_new_tokens = 1
    assert ask(handler, {"text": "one"})[0][0]["text"] == " two"


def test_texts_of_several_lengths_in_one_batch(handler, ask):
    """Padding does no harm, and a text that is finished is not run any more."""
    bodies = ["four", "one two three four five", {"text": "two", "max_new_tokens": 3}]
    together, _ = ask(handler, *bodies)
    assert handler.model.batches == [(3, 6), (3, 7), (2, 4)]
    assert together == [ask(handler, body)[0][0] for body in bodies]


def test_a_bad_request_fails_alone_and_the_others_run_once(handler, ask):
    replies, context = ask(handler, "six", b"\xff", {"text": "five", "max_new_tokens": 0}, "four")
    assert [context.get_response_status(index)[0] for index in range(4)] == [200, 400, 400, 200]
    assert (replies[0]["text"], replies[3]["text"]) == ("", " five six")
    assert [shape[0] for shape in handler.model.batches] == [2, 1, 1]


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"text": "one", "max_new_tokens": 1025}, "may be 1 to 1024"),
        ({"text": "one", "max_new_tokens": True}, "must be a whole number"),
        ({"text": "one", "temperature": -1}, "may be 0 to 100"),
        ({"text": "one", "temperature": float("nan")}, "may be 0 to 100"),
        ({"text": "one", "temperature": "hot"}, "must be a number"),
        ({"text": "one", "top_k": 0}, "must be 1 or more"),
        ({"text": "one", "seed": 1.5}, "must be a whole number"),
        ({"text": "one", "stream": 1}, "must be true or false"),
        ({"prompt": 5}, "is int and no text"),
        ({"stream": True}, "no text"),
        (None, "has no body"),
        (
            {"text": "one", "max_new_tokns": 3},
            "'max_new_tokns' is no option of a request: did you mean 'max_new_tokens'?",
        ),
        ({"promt": "one"}, "did you mean 'prompt'?"),
        ({"text": "one", "what": 3}, "'what' is no option of a request: there are text, prompt, max_new_tokens"),
        ({"text": "one", "x" * 999: 3}, "x is no option"),
    ],
)
def test_what_is_wrong_is_named(handler, ask, body, reason):
    ((reply,), context) = ask(handler, body)
    assert context.get_response_status(0)[0] == 400
    assert reason in reply["message"]


def test_a_handler_may_have_options_of_its_own(load, ask):
    class Mine(TextGenerator):
        more_options = ("language",)

    ((reply,), context) = ask(load(Mine), {"text": "one", "language": "en", "max_new_tokens": 1})
    assert context.get_response_status(0)[0] == 200
    assert reply["text"] == " two"


def test_a_text_without_a_token(load, ask):
    class Bare(TextGenerator):
        def encode(self, content):
            return type("Encoding", (), {"ids": [3]})

    assert "no token" in ask(load(Bare), "one")[0][0]["message"]


# ---- sampling --------------------------------------------------------------------------------------------------------


def sampled(handler, ask, count, **options):
    bodies = [{"text": "one", "max_new_tokens": 1, "seed": seed, **options} for seed in range(count)]
    return [reply["text"].strip() for reply in ask(handler, *bodies)[0]]


def test_sampling_follows_the_probabilities(handler, ask):
    """exp(3/T) to 1 for the next word against each of the nine others."""
    found = Counter(sampled(handler, ask, 400, temperature=1.0))
    assert found["two"] / 400 == pytest.approx(20.1 / 29.1, abs=0.1)
    assert len(found) > 5
    assert Counter(sampled(handler, ask, 400, temperature=3))["two"] / 400 == pytest.approx(2.7 / 11.7, abs=0.1)
    assert set(sampled(handler, ask, 50, temperature=5.0, top_k=1)) == {"two"}


def test_a_seed_decides_whatever_is_in_the_batch(handler, ask):
    body = {"text": "one", "temperature": 9.0, "seed": 7, "max_new_tokens": 12}
    alone = ask(handler, body)[0][0]
    assert ask(handler, {**body, "seed": 8}, "two", body)[0][2] == alone
    assert ask(handler, {**body, "seed": -5})[0][0] != alone
    assert len({json.dumps(ask(handler, {**body, "seed": None})[0][0]) for _ in range(5)}) > 1


# ---- streaming -------------------------------------------------------------------------------------------------------


@pytest.fixture
def stream_of(read_reply):
    """Decode frames of parts; return for each the texts by request."""

    def decode(frames):
        found = []
        for frame in frames:
            items = read_reply(frame).items
            assert all(item.headers["ts_stream_next"] == "true" for item in items)
            assert all(item.content_type == "text/plain; charset=utf-8" for item in items)
            found.append({item.request_id: item.body.decode() for item in items})
        return found

    return decode


def test_a_text_is_streamed_token_by_token(handler, ask, stream_of):
    socket = Socket()
    ((last,), context) = ask(handler, {"text": "three", "stream": True}, socket=socket)
    assert stream_of(socket.frames) == [{"request-0": " four"}, {"request-0": " five"}, {"request-0": " six"}]
    assert last == ""
    assert context.get_response_status(0)[0] == 200


def test_what_is_left_at_the_end_is_the_last_chunk(handler, ask, stream_of):
    socket = Socket()
    ((last,), _) = ask(handler, {"text": "one", "stream": True, "max_new_tokens": 2}, socket=socket)
    assert stream_of(socket.frames) == [{"request-0": " two"}]
    assert last == " three"


def test_streams_and_others_and_bad_ones_in_one_batch(handler, ask, stream_of):
    socket = Socket()
    bodies = ["five", b"\xff", {"text": "four", "stream": True}, {"text": "five", "stream": True}]
    replies, context = ask(handler, *bodies, socket=socket)
    assert stream_of(socket.frames) == [
        {"request-2": " five", "request-3": " six"},
        {"request-2": " six"},
    ]
    assert [replies[0]["text"], replies[1]["code"], replies[2], replies[3]] == [" six", 400, "", ""]
    assert context.get_response_content_type(0) is None


@pytest.mark.parametrize("headers", [True, False])
def test_where_nothing_can_be_streamed_the_whole_text_comes_at_once(handler, ask, headers):
    """Without a worker, and to gRPC, which has no headers."""
    socket = None if headers else Socket()
    ((reply,), context) = ask(handler, {"text": "four", "stream": True}, headers=headers, socket=socket)
    if headers:
        assert reply == " five six"
    else:
        assert reply["text"] == " five six"
        assert socket.frames == []
        assert context.get_response_content_type(0) is None


def test_a_character_of_several_tokens_is_not_torn(load, make_context, stream_of):
    from tokenizers import Tokenizer, decoders, models

    tokens = {"a": 0, **{f"<0x{byte:02X}>": index for index, byte in enumerate("é!".encode(), 1)}, "</s>": 4}
    tokenizer = Tokenizer(models.BPE(tokens, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    handler = load()
    handler.tokenizer.tokenizer, handler.ends = tokenizer, frozenset({4})
    handler.model = lambda ids, mask: nn.functional.one_hot(ids + 1, 6).float()
    context = make_context(requests=1, headers={0: {"host": "here"}})
    context.cl_socket = Socket()
    assert handler.handle([{"body": {"text": "a", "stream": True}}], context) == [""]
    assert [part["request-0"] for part in stream_of(context.cl_socket.frames)] == ["é", "!"]


def test_a_model_that_fails_in_the_middle_is_not_run_again(handler, ask):
    class Failing(Counting):
        def forward(self, ids, mask):
            if len(self.batches) == 2:
                raise RuntimeError("the model breaks")
            return super().forward(ids, mask)

    handler.model = Failing()
    socket = Socket()
    replies, _ = ask(handler, {"text": "one", "stream": True}, "two", socket=socket)
    assert [reply["code"] for reply in replies] == [503, 503]
    assert len(socket.frames) == 2
    assert len(handler.model.batches) == 2


@pytest.mark.parametrize(("seconds", "finish", "tokens"), [(1.0, "time", 1), (600.0, "stop", 5)])
def test_a_text_ends_before_the_frontend_gives_up(load, make_context, monkeypatch, seconds, finish, tokens):
    """The last second is for the reply."""
    handler = load()
    monkeypatch.setenv("TORCHMAR_RESPONSE_TIMEOUT", str(seconds))
    context = make_context(requests=1, headers={0: {"host": "here"}})
    (reply,) = handler.handle([{"body": "one"}], context)
    assert (reply["finish_reason"], reply["tokens"]) == (finish, tokens)
    context = make_context(requests=1, headers={0: {"host": "here"}})
    assert handler.handle([{"body": {"text": "one", "stream": True}}], context) == [" two three four five six"]


def test_the_time_of_one_more_token_counts(load, make_context, monkeypatch):
    handler = load()
    monkeypatch.setenv("TORCHMAR_RESPONSE_TIMEOUT", "10")
    now = chain([0.0, 0.0, 4.0, 4.0], repeat(8.0))  # the deadline is counted from the first, and a token takes 4 s
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    (reply,) = handler.postprocess(handler.inference(handler.preprocess([{"body": "one"}])))
    assert (reply["finish_reason"], reply["tokens"]) == ("time", 2)


# ---- what the archive says ---------------------------------------------------------------------------------------


def test_the_window(load, ask):
    for config, kind in (
        ({"handler": {"max_length": 3}}, TextGenerator),
        ({}, type("W", (TextGenerator,), {"max_length": 3})),
    ):
        handler = load(kind, config, truncation=2)
        assert ask(handler, "one two three four")[0][0]["text"] == " five six"
        assert set(handler.model.batches) == {(1, 3)}


def test_tokens_that_end_a_text(load, ask):
    handler = load(config={"handler": {"ends": ["five", "nonsense"]}})
    assert ask(handler, {"text": "one two [SEP]", "max_new_tokens": 9})[0][0]["text"] != ""
    assert handler.ends == {8}
    with pytest.raises(LoadError, match=r"handler\.ends"):
        load(config={"handler": {"ends": "five"}})


def test_inputs_of_the_model(load, ask):
    handler = load(config={"handler": {"inputs": ["token_type_ids", "input_ids"]}})
    inner = handler.model
    handler.model = lambda types, ids: inner(ids, torch.ones_like(ids))["logits"] + types.sum()
    assert ask(handler, "five")[0][0]["text"] == " six"


def test_scores_of_ones_own(load, ask):
    class Fixed(TextGenerator):
        def scores(self, texts):
            return torch.stack([torch.eye(10)[9 if len(ids) < 5 else 3] for ids in texts])

    assert ask(load(Fixed), "one")[0][0] == {"text": " six six six", "tokens": 3, "finish_reason": "stop"}


def test_there_must_be_a_tokenizer(archives, make_context):
    folder = archives.make(model_file=NET)
    torch.save(["a"], folder / "source_vocab.pt")
    with pytest.raises(LoadError, match=r"no tokenizer\.json"):
        TextGenerator().initialize(make_context(folder))


def test_an_own_preprocess_may_give_a_tensor(load):
    handler = load()
    handler.model = nn.Identity()
    assert handler.inference(torch.ones(1)).tolist() == [1.0]
    assert Generation([1], 1).finish is None
