"""Answers in texts: as `pipeline` of transformers 4 gives them, and as an exhaustive search over all spans does."""

import pytest
import torch

from handlers.errors import LoadError

from .conftest import near
from .models import make_bert, make_tokenizer, save

CONTEXT = "Ada Lovelace lives in Rome . the rain stopped the final of sport in rome ."
QUESTIONS = ["who lives in rome", "where is ada", "rain"]


def asked(question, context=CONTEXT, **parameters):
    return {"inputs": {"question": question, "context": context}, "parameters": parameters}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("answers"), make_bert("ForQuestionAnswering"), make_tokenizer())


@pytest.fixture(scope="module")
def answers(serve, saved):
    return serve(saved)


def search(served, question, longest=15):
    """Find the best span by trying all; only tokens of the text, and the first one, take part in the softmax."""
    found = served.handler.tokenizer(question, CONTEXT, return_tensors="pt", return_offsets_mapping=True)
    offsets = found.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        output = served.handler.model(**found)
    known = [index for index, one in enumerate(found.sequence_ids(0)) if one == 1]
    allowed = torch.full((len(offsets),), float("-inf"))
    allowed[[0, *known]] = 0
    start, end = ((scores[0] + allowed).softmax(0).tolist() for scores in (output.start_logits, output.end_logits))
    best = max(
        ((start[a] * end[b], a, b) for a in known for b in known if a <= b < a + longest), key=lambda one: one[0]
    )
    return best[0], offsets[best[1]][0], offsets[best[2]][1]


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_best_span(answers, question):
    score, start, end = search(answers, question)
    found = answers.one(asked(question, align_to_words=False))
    assert found == near({"score": score, "start": start, "end": end, "answer": CONTEXT[start:end]})
    assert search(answers, question, 1)[0] == near(
        answers.one(asked(question, max_answer_len=1, align_to_words=False))["score"]
    )


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"top_k": 3},
        {"align_to_words": False, "top_k": 2},
        {"handle_impossible_answer": True, "top_k": 20},
        {"max_seq_len": 20, "doc_stride": 6},
        {"max_seq_len": 20, "doc_stride": 6, "top_k": 4, "handle_impossible_answer": True},
    ],
)
def test_answers_are_those_of_the_pipeline(answers, saved, pipe, parameters):
    line = pipe("question-answering", saved)
    if line is None:
        pytest.skip("transformers 5 has no such pipeline")
    for question in QUESTIONS:
        expected = line(question=question, context=CONTEXT, **parameters)
        assert answers.one(asked(question, **parameters)) == near(expected)


def test_forms_of_a_request(answers):
    plain = {"question": QUESTIONS[0], "context": CONTEXT}
    expected = answers.one(asked(QUESTIONS[0]))
    assert answers.one(plain) == near(expected)
    # TorchServe's example sends a file, without a content type.
    assert answers.one(str(plain).replace("'", '"').encode()) == near(expected)
    assert answers.one({"inputs": [plain, plain]}) == near([expected, expected])


def test_a_long_text_is_read_in_windows(answers):
    long = "rain " * 100 + CONTEXT
    found = answers.one(asked(QUESTIONS[0], long))
    assert long[found["start"] : found["end"]] == found["answer"]


def test_each_request_fails_alone(answers):
    bad = [
        "a text",
        {"inputs": {"question": "who"}},
        asked("", CONTEXT),
        asked("who", CONTEXT, top_k=-1),
        asked("rome " * 60, CONTEXT),
    ]
    answered = answers.ask(*bad, asked(QUESTIONS[1]))
    assert answered.statuses == [400, 400, 400, 400, 400, 200]
    assert "no question, or no context" in answered.replies[1]["message"]
    assert "leaves no room" in answered.replies[4]["message"]
    assert answers.one(asked("rome " * 60, CONTEXT, max_question_len=10))["answer"]


def test_the_form_of_torchserves_example(serve, saved, answers):
    served = serve(saved, {"handler": {"reply": "torchserve"}})
    assert served.one(asked(QUESTIONS[0])) == answers.one(asked(QUESTIONS[0]))["answer"]


def test_a_tokenizer_without_places(answers, monkeypatch):
    monkeypatch.setattr(type(answers.handler.tokenizer), "is_fast", property(lambda _: False))
    with pytest.raises(LoadError, match="does not tell where its tokens are"):
        answers.handler.initialize(answers.context)
