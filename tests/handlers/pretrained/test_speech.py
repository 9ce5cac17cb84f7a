"""Speech that is written down, as `pipeline` writes it."""

import io
import json
import math
import struct
import wave

import numpy as np
import pytest
import torch

from .conftest import SIZES, save, transformers

LETTERS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ABCDEFGH"]


def wav(samples, rate=16_000):
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(struct.pack(f"<{len(samples)}h", *samples))
    return stream.getvalue()


def tone(hertz, count):
    return [int(12_000 * math.sin(hertz * 2 * math.pi * index / 16_000)) for index in range(count)]


SOUNDS = [tone(300, 3000), tone(900, 5000), tone(300, 3000)]


@pytest.fixture(scope="module")
def speller(tmp_path_factory):
    torch.manual_seed(4)
    config = transformers.Wav2Vec2Config(
        vocab_size=len(LETTERS),
        **SIZES,
        conv_dim=(8, 8),
        conv_kernel=(10, 3),
        conv_stride=(5, 2),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        num_feat_extract_layers=2,
        pad_token_id=0,
    )
    folder = tmp_path_factory.mktemp("ctc")
    vocabulary = tmp_path_factory.mktemp("vocabulary") / "vocab.json"
    vocabulary.write_text(json.dumps({letter: index for index, letter in enumerate(LETTERS)}))
    tokenizer = transformers.Wav2Vec2CTCTokenizer(str(vocabulary))
    extractor = transformers.Wav2Vec2FeatureExtractor(return_attention_mask=False)
    processor = transformers.Wav2Vec2Processor(feature_extractor=extractor, tokenizer=tokenizer)
    return save(folder, transformers.Wav2Vec2ForCTC(config), processor)


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
