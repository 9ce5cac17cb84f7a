"""Rewritten texts: what `generate` writes, alone and in batches."""

import pytest
import torch

from .models import SIZES, WORDS, make_t5, make_tokenizer, save, transformers

TEXTS = ["ada lives in rome", "rain", "the rain stopped the final , the rain of rome . " * 2]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save(tmp_path_factory.mktemp("t5"), *make_t5())


@pytest.fixture(scope="module")
def writer(serve, saved):
    return serve(saved)


def written(served, text, **arguments):
    """Return what the model writes for a text alone."""
    handler = served.handler
    torch.manual_seed(arguments.pop("seed", 0))
    with torch.no_grad():
        tokens = handler.tokenizer(text, return_tensors="pt")
        return handler.tokenizer.decode(handler.model.generate(**tokens, **arguments)[0], skip_special_tokens=True)


def test_summaries(writer):
    assert writer.handler.saved.task == "summarization"
    requests = [{"inputs": text, "parameters": {"max_new_tokens": 8}} for text in TEXTS]
    expected = [[{"summary_text": written(writer, "the news : " + text, max_new_tokens=8)}] for text in TEXTS]
    assert writer.ask(*requests).replies == expected
    assert writer.one({"inputs": TEXTS, "parameters": {"max_new_tokens": 8}}) == expected
    assert len({str(one) for one in expected}) > 1


def test_parameters_of_a_request_are_its_own(writer):
    given = [
        {"max_new_tokens": 4},
        {"max_new_tokens": 4, "num_beams": 3},
        {"max_new_tokens": 6, "do_sample": True, "seed": 5},
    ]
    requests = [{"inputs": TEXTS[0], "parameters": {"prefix": "", **one}} for one in given]
    found = [one[0]["summary_text"] for one in writer.ask(*requests, requests[2]).replies]
    assert found == [written(writer, TEXTS[0], **given[index]) for index in (0, 1, 2, 2)]


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        ({"max_new_tokens": 5000}, "at most 1024 are written"),
        ({"min_length": 2000}, "at most 1024"),
        ({"num_beams": 100}, "at most 32"),
        ({"temperature": 0}, "a number from 0.00001 on"),
        ({"tgt_lang": "fr"}, "no language of the model"),
        ({"src_lang": "fr"}, "no language of the model"),
        ({"stop": "x"}, "no parameter"),
    ],
)
def test_bad_parameters(writer, parameters, said):
    answered = writer.ask(
        {"inputs": TEXTS[0], "parameters": parameters}, {"inputs": "rain", "parameters": {"max_new_tokens": 2}}
    )
    assert answered.statuses == [400, 200]
    assert said in answered.replies[0]["message"]


@pytest.mark.parametrize(
    ("task", "key"), [("translation", "translation_text"), ("text2text-generation", "generated_text")]
)
def test_other_tasks_have_other_keys(serve, saved, task, key):
    served = serve(saved, {"handler": {"max_new_tokens": 3}}, task=task)
    assert served.one("rain") == [{key: written(served, "rain", max_new_tokens=3)}]


def test_two_models_of_bert_as_one(serve, tmp_path):
    """As bert2bert: an EncoderDecoderModel, which is no embedder although its name ends as theirs do."""
    sizes = {**SIZES, "vocab_size": len(WORDS), "max_position_embeddings": 64}
    parts = [transformers.BertConfig(**sizes, is_decoder=last, add_cross_attention=last) for last in (False, True)]
    config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(*parts)
    config.decoder_start_token_id, config.pad_token_id, config.eos_token_id = 2, 0, 3
    torch.manual_seed(2)
    tokenizer = make_tokenizer(eos_token="[SEP]")
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    served = serve(save(tmp_path, transformers.EncoderDecoderModel(config).eval(), tokenizer))
    assert served.handler.saved.task == "text2text-generation"
    requests = [{"inputs": text, "parameters": {"max_new_tokens": 8}} for text in TEXTS]
    expected = [[{"generated_text": written(served, text, max_new_tokens=8)}] for text in TEXTS]
    assert served.ask(*requests).replies == expected


def test_answers_are_those_of_the_pipeline(writer, saved, pipe):
    line = pipe("summarization", saved)
    if line is None:
        pytest.skip("transformers 5 has no such pipeline")
    for text in TEXTS:
        given = {"max_new_tokens": 8, "num_beams": 2}
        assert writer.one({"inputs": text, "parameters": given}) == line(text, **given)
