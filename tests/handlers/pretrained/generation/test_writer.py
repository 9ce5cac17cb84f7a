"""The queue: who joins when, what is bounded, and that one bad text fails alone."""

from functools import cache

import pytest
import torch

from handlers.pretrained.generation.sequence import Chooser, Text, Written
from handlers.pretrained.generation.writer import Writer
from tests.handlers.pretrained.models import make_writer

tiny = cache(lambda: make_writer("Llama"))  # a model, and its tokenizer


def writer(**limits):
    return Writer(tiny()[0], torch.device("cpu"), pad=0, **{"most_rows": 8, "most_tokens": 10_000, **limits})


def text(*prompt, most=4, **options):
    ids = list(prompt)
    return Written(ids, most, Text(tiny()[1], ids, ()), **options)


def finish(queue, limit=200):
    steps = 0
    while len(queue):
        queue.step()
        steps += 1
        assert steps < limit
    return steps


def tokens_of(*texts):
    queue = writer()
    queue.add(texts)
    finish(queue)
    return [one.new for one in texts]


def test_texts_join_those_that_are_written():
    queue = writer()
    first, second = text(5, 6, 7, most=12), text(9, most=3)
    queue.add([first])
    for _ in range(4):
        queue.step()
    assert len(first.new) == 4
    queue.add([second])
    queue.step()
    assert (len(first.new), len(second.new)) == (5, 1)
    finish(queue)
    assert [first.new, second.new] == [*tokens_of(text(5, 6, 7, most=12)), *tokens_of(text(9, most=3))]


def test_no_more_rows_than_allowed_and_in_their_order():
    queue = writer(most_rows=2)
    texts = [text(5 + index, most=3) for index in range(5)]
    queue.add(texts)
    queue.step()
    assert [len(one.new) for one in texts] == [1, 1, 0, 0, 0]
    assert finish(queue) < 15
    assert all(len(one.new) == 3 for one in texts)


def test_no_more_tokens_than_allowed():
    queue = writer(most_tokens=40)
    texts = [text(5, most=19), text(6, most=19), text(7, most=1)]
    queue.add(texts)
    queue.step()
    assert [len(one.new) for one in texts] == [1, 1, 0]  # two rows of 20
    finish(queue)
    assert all(one.finish == "length" for one in texts)


def test_beams_take_room_too():
    queue = writer(most_tokens=40)
    beams = text(5, most=9, alone={"num_beams": 2, "max_new_tokens": 9, "do_sample": False})
    queue.add([beams])
    queue.step()
    texts = [text(5, most=19), text(6, most=19)]
    queue.add(texts)
    queue.step()
    assert [len(one.new) for one in texts] == [1, 0]  # two rows of 20, and two beams of 10
    finish(queue)
    assert all(one.finish == "length" for one in (beams, *texts))


def test_a_fault_of_ours_is_not_the_requests(monkeypatch):
    one = text(5)
    monkeypatch.setattr(one.text, "add", lambda *_, **__: [].index(0))
    queue = writer()
    queue.add([one])
    finish(queue)
    assert type(one.error) is ValueError


def test_prompts_of_unlike_length_are_read_apart():
    queue = writer()
    texts = [text(5), text(*range(5, 30))]
    queue.add(texts)
    queue.step()
    assert [len(one.new) for one in texts] == [1, 0]


def test_who_leaves():
    queue = writer(most_rows=2)
    texts = [text(5 + index, most=50) for index in range(3)]
    queue.add(texts)
    queue.step()
    queue.drop(texts[1:2])
    queue.step()
    assert [len(one.new) for one in texts] == [2, 1, 1]
    queue.drop(texts)
    assert len(queue) == 0


def test_a_text_that_cannot_be_read_fails_alone():
    queue = writer()
    good, bad = text(5, 6), text(7, 10**6)
    queue.add([good, bad])
    finish(queue)
    assert good.new == tokens_of(text(5, 6))[0]
    assert isinstance(bad.error, IndexError)


def test_a_choice_that_fails_fails_alone():
    from transformers import LogitsProcessorList

    def fail(ids, scores):
        raise RuntimeError("no")

    queue = writer()
    good, bad = text(5, 6), text(7, 8, chooser=Chooser(processors=LogitsProcessorList([fail])))
    queue.add([good, bad])
    finish(queue)
    assert good.new == tokens_of(text(5, 6))[0]
    assert str(bad.error) == "no"


def test_without_memory_everything_is_forgotten(monkeypatch):
    queue = writer()
    queue.add([text(5, 6)])
    queue.step()
    monkeypatch.setattr(queue._rows, "step", lambda _: (_ for _ in ()).throw(MemoryError))
    with pytest.raises(MemoryError):
        queue.step()
    assert len(queue) == 0
    one = text(5, 6)
    queue.add([one])
    finish(queue)
    assert one.new == tokens_of(text(5, 6))[0]


BEAMS = {"num_beams": 3, "max_new_tokens": 5, "do_sample": False}


def test_several_beams_are_written_beside_others():
    beams, row = text(5, 6, alone=BEAMS), text(9, most=12)
    queue = writer()
    queue.add([beams, row])
    for count in range(1, 5):
        queue.step()
        assert (len(row.new), beams.over) == (count, False)
    assert len(queue) == 2
    finish(queue)
    with torch.inference_mode():
        expected = tiny()[0].generate(torch.tensor([[5, 6]]), **BEAMS)[0, 2:].tolist()
    assert [beams.new, row.new] == [expected, *tokens_of(text(9, most=12))]


def test_one_of_several_beams_at_a_time_and_none_for_who_has_gone():
    first, second, third = (text(5, 6 + index, alone=BEAMS) for index in range(3))
    queue = writer()
    queue.add([first, second, third])
    queue.step()
    queue.drop([first, second])
    assert len(queue) == 1
    finish(queue)
    assert first.new == second.new == []
    assert len(third.new) == 5
