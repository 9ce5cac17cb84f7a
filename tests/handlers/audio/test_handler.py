import io
import wave

import pytest
import torch

from handlers import AudioHandler, LoadError
from handlers.audio.wav import resample

NET = "from torch import nn\nclass Net(nn.Identity): pass\n"


def wav(rate=16000, seconds=0.01, channels=1, seed=0):
    generator = torch.Generator().manual_seed(seed)
    count = round(rate * seconds) * channels
    samples = torch.randint(-(1 << 15), 1 << 15, (count,), generator=generator, dtype=torch.int16)
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.numpy().tobytes())
    return bytearray(stream.getvalue()), samples.reshape(-1, channels).T.float() / (1 << 15)


@pytest.fixture
def handler(archives, make_context):
    made = AudioHandler()
    made.initialize(make_context(archives.make(model_file=NET)))
    made.batches = []

    def model(sounds):
        made.batches.append(tuple(sounds.shape))
        return sounds.mean(dim=(1, 2))

    made.model = model
    return made


def ask(handler, make_context, *bodies):
    context = make_context(requests=len(bodies))
    return handler.handle([{"body": body} for body in bodies], context), context


def test_sounds_as_they_are(handler, make_context):
    content, sound = wav()
    ((reply,), _) = ask(handler, make_context, content)
    assert handler.batches == [(1, 1, 160)]
    assert reply == pytest.approx(sound.mean().item(), abs=1e-6)
    assert torch.equal(handler.preprocess([{"data": bytes(content)}])[0], sound)


def test_another_rate_is_resampled(handler):
    content, sound = wav(rate=44100)
    assert torch.equal(handler.preprocess([{"body": content}])[0], resample(sound, 44100, 16000))


@pytest.mark.parametrize(("config", "count"), [({"sample_rate": 8000}, 80), ({"sample_rate": None}, 441), ({}, 160)])
def test_the_rate_of_the_configuration(archives, make_context, config, count):
    handler = AudioHandler()
    handler.initialize(make_context(archives.make(model_file=NET), config={"handler": config}))
    assert handler.preprocess([{"body": wav(rate=44100)[0]}]).shape == (1, 1, count)


@pytest.mark.parametrize("rate", [0, "8000", 8e3, True])
def test_a_rate_that_is_none(archives, make_context, rate):
    with pytest.raises(LoadError, match="sample_rate"):
        AudioHandler().initialize(
            make_context(archives.make(model_file=NET), config={"handler": {"sample_rate": rate}})
        )


def test_channels_are_mixed_or_kept(handler):
    content, sound = wav(channels=2)
    assert torch.allclose(handler.preprocess([{"body": content}])[0], sound.mean(dim=0, keepdim=True))
    handler.mono = False
    assert torch.equal(handler.preprocess([{"body": content}])[0], sound)


def test_sounds_of_one_length_run_together_and_others_apart(handler, make_context):
    bodies = [wav(seed=1)[0], wav(seconds=0.02, seed=2)[0], b"no sound", wav(seed=3)[0]]
    output, context = ask(handler, make_context, *bodies)
    assert [context.get_response_status(index)[0] for index in range(4)] == [200, 200, 400, 200]
    assert handler.batches == [(2, 1, 160), (1, 1, 320)]
    for index in (0, 1, 3):
        assert output[index] == pytest.approx(ask(handler, make_context, bodies[index])[0][0], abs=1e-6)


def test_samples_in_json(handler, make_context):
    output, _ = ask(handler, make_context, [0.5, 0.25], [[0.5, 0.0], [1.0, 0.5]])
    assert output == pytest.approx([0.375, 0.5])
    handler.mono = False
    assert handler.preprocess([{"body": [[0.5, 0.0], [1.0, 0.5]]}]).shape == (1, 2, 2)


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (None, 400, "no body"),
        (b"", 400, "no body"),
        ("text", 400, "is str"),
        ({"a": 1}, 400, "is dict"),
        ([], 400, "is list"),
        ([[]], 400, "shape [1, 0]"),
        ([[[1.0]]], 400, "shape [1, 1, 1]"),
        (["a"], 400, "is the text 'a'"),
        (wav(seconds=0.2)[0], 413, "0.2 s long: at most 0.1 s"),
    ],
)
def test_what_is_wrong_is_named(handler, make_context, body, status, reason):
    handler.longest_s = 0.1
    ((reply,), context) = ask(handler, make_context, body)
    assert context.get_response_status(0)[0] == status
    assert reason in reply["message"]


@pytest.mark.parametrize("lengths", [(0.01, 0.01), (0.01, 0.02)])
def test_models_that_give_several_tensors(handler, make_context, lengths):
    bodies = [wav(seconds=seconds)[0] for seconds in lengths]
    handler.model = lambda sounds: {"first": sounds[:, 0, 0], "size": torch.full((len(sounds), 1), sounds.shape[2])}
    output, _ = ask(handler, make_context, *bodies)
    assert [item["size"] for item in output] == [[round(16000 * seconds)] for seconds in lengths]
    handler.model = lambda sounds: (sounds[:, 0, 0], sounds[:, 0, :2])
    output, _ = ask(handler, make_context, *bodies)
    assert all(isinstance(item[0], float) and len(item[1]) == 2 for item in output)
