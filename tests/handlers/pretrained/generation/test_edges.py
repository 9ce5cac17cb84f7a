"""Parameters at the edges of what they may be, in any company: answered or refused, and nothing else is hurt."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handlers.pretrained.generation.parameters import PARAMETERS
from tests.handlers.pretrained.models import make_writer, save

PLACES = 128
EVERY = [*range(264)]  # tokens of the model
TOKENS = [[0], [5, 6], EVERY, EVERY[3:]]
FLAGS = [True, False]
SHARES = [1e-300, 1e-9, 0.5, 0.999999]
EDGES = {
    "max_new_tokens": [1, 2, 12, 1024],
    "min_new_tokens": [1, 12, 1024],
    "max_length": [1, 30, 1_000_000],
    "min_length": [1, 30, 1_000_000],
    "num_beams": [1, 2, 16, 17],
    "do_sample": FLAGS,
    "early_stopping": FLAGS,
    "temperature": [0, 1e-300, 1e-40, 1e-5, 1e-3, 1, 999.9],
    "top_k": [0, 1, 10**6],
    "top_p": [*SHARES, 1],
    "repetition_penalty": [1e-300, 1e-40, 1e-3, 1, 999.9],
    "length_penalty": [-100, 0, 100],
    "no_repeat_ngram_size": [0, 1, 1000],
    "min_p": [0, *SHARES, 1],
    "typical_p": [*SHARES, 1],
    "epsilon_cutoff": [0, *SHARES],
    "eta_cutoff": [0, *SHARES],
    "renormalize_logits": FLAGS,
    "remove_invalid_values": FLAGS,
    "suppress_tokens": TOKENS,
    "begin_suppress_tokens": TOKENS,
    "bad_words_ids": [[[5]], [[5, 6, 7]], [[one] for one in EVERY]],
    "sequence_bias": [[[[5], 999_999.0]], [[[5], -999_999.0], [[6, 7], 1]], [[[one], -999_999.0] for one in EVERY]],
    "exponential_decay_length_penalty": [[0, 1], [0, 999.9], [2**31 - 1, 2]],
    "num_return_sequences": [1, 2, 16],
    "frequency_penalty": [-2, 0, 2],
    "presence_penalty": [-2, 0, 2],
    "max_time": [1e-300, 1e-3, 999_999],
    "seed": [0, 2**63 - 1],
    "stop": ["the", ["a", "\x00", "in " * 300]],
    "truncate": [1, 1_000_000],
    "return_full_text": FLAGS,
    "details": FLAGS,
    "logprobs": FLAGS,
    "top_n_tokens": [0, 20],
}
REQUESTS = st.fixed_dictionaries({}, optional={name: st.sampled_from(values) for name, values in EDGES.items()})
PLAIN = {"inputs": "the rain", "parameters": {"max_new_tokens": 4}}


@pytest.fixture(scope="module")
def served(serve, tmp_path_factory):
    model, tokenizer = make_writer("Llama", max_position_embeddings=PLACES)
    assert len(tokenizer) == len(EVERY)
    return serve(save(tmp_path_factory.mktemp("writer"), model, tokenizer))


def test_every_parameter_has_edges():
    assert EDGES.keys() == PARAMETERS.keys()


@pytest.mark.slow
@settings(max_examples=600, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parameters=REQUESTS, text=st.sampled_from(["a", "the rain in spain", "the " * 3000]))
def test_every_request_is_answered_or_refused_and_none_stands_still(served, monkeypatch, parameters, text):
    writer = served.handler.writer
    steps = []
    step = type(writer).step
    monkeypatch.setattr(writer, "step", lambda: (steps.append(1), step(writer)))
    answered = served.ask({"inputs": text, "parameters": parameters}, PLAIN)
    assert answered.statuses[0] in (200, 400, 413), answered.replies[0]
    assert answered.statuses[1] == 200
    assert len(steps) <= PLACES + 2
    assert len(writer) == 0
