"""Speech that is written down, as `pipeline` writes it."""

import base64

import numpy as np
import pytest

from .models import make_moonshine, make_wav2vec2, save, tone, wav

SOUNDS = [tone(300, 3000), tone(900, 5000), tone(300, 3000)]


@pytest.fixture(scope="module")
def speller(tmp_path_factory):
    return save(tmp_path_factory.mktemp("ctc"), *make_wav2vec2(tmp_path_factory.mktemp("vocabulary")))


def test_texts_are_those_of_the_pipeline(serve, speller, pipe):
    served = serve(speller)
    line = pipe("automatic-speech-recognition", speller)
    arrays = [np.array(one, dtype=np.float32) / 32_768 for one in SOUNDS]
    expected = [line({"raw": one, "sampling_rate": 16_000}) for one in arrays]
    assert served.ask(*map(wav, SOUNDS)).replies == expected
    assert len({one["text"] for one in expected}) > 1


def test_each_request_fails_alone(serve, speller):
    served = serve(speller)
    served.handler.longest_s = 0.25
    answered = served.ask(b"no sound", wav(SOUNDS[1]), wav(SOUNDS[0]), "text", wav([]))
    assert answered.statuses == [400, 413, 200, 400, 400]


def test_a_model_that_writes(serve, tmp_path, pipe):
    folder = save(tmp_path / "net", *make_moonshine())
    served = serve(folder)
    line = pipe("automatic-speech-recognition", folder)
    arrays = [np.array(one, dtype=np.float32) / 32_768 for one in SOUNDS]
    expected = [line({"raw": one, "sampling_rate": 16_000}, max_new_tokens=6) for one in arrays]
    bodies = [{"inputs": base64.b64encode(wav(one)).decode(), "parameters": {"max_new_tokens": 6}} for one in SOUNDS]
    assert served.ask(*bodies).replies == expected
    assert any(one["text"] for one in expected)
    too_much = {**bodies[0], "parameters": {"max_new_tokens": 5000}}
    assert served.ask(too_much, {"inputs": "?"}, bodies[0]).statuses == [400, 400, 200]
