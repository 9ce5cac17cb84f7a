"""Speech in a recording: a WAV file in, the segments of speech out."""

from __future__ import annotations

from functools import partial

import torch
from torch.nn import functional

from handlers import AudioHandler

RATE = 16_000  # Hz, of the model
CHUNK = 512  # samples that the model takes at once: 32 ms
CONTEXT = 64  # samples of the chunk before, which the ONNX model takes along
BEGINS, GOES_ON = 0.5, 0.35  # probabilities at which speech begins, and above which it goes on
SHORTEST = 8  # chunks: what is shorter is a cough or a click
PAUSE = 4  # chunks: what is shorter is part of the speech


class SpeechDetector(AudioHandler):
    """Segments of speech in seconds; with the header `X-Probabilities: true` also the model's own output.

    Each request is a stream of its own: the model begins it without a memory of any other. Recordings of one length
    that wait at the same time run as one batch.
    """

    sample_rate = RATE

    def initialize(self, context):
        """Load the model, in either format."""
        super().initialize(context)
        self.model = partial(run_script if isinstance(self.model, torch.nn.Module) else run_onnx, self.model)

    def preprocess_one(self, data, context):
        """Read the WAV file, and note how long it is."""
        sound = super().preprocess_one(data, context)
        context.state["seconds"] = sound.shape[1] / RATE
        return sound

    def postprocess_one(self, output, context):
        """Make segments of the probabilities, `[chunks]`."""
        probabilities = output.tolist()
        seconds = context.state["seconds"]
        reply = {"seconds": round(seconds, 3), "speech": segments(probabilities, seconds)}
        if context.headers.get("x-probabilities") == "true":
            reply["probabilities"] = probabilities
        return reply


def run_script(model, sounds):
    """Return the probability of speech in each chunk, `[batch, chunks]`, of sounds `[batch, 1, samples]`.

    The TorchScript model keeps the state of its stream itself.
    """
    return model.audio_forward(sounds[:, 0], RATE)  # which begins with model.reset_states()


def run_onnx(model, sounds):
    """Return the same as `run_script`. The ONNX model is given the state of its stream, and returns it."""
    samples = functional.pad(sounds[:, 0], (0, -sounds.shape[2] % CHUNK))
    state, before = sounds.new_zeros(2, len(sounds), 128), sounds.new_zeros(len(sounds), CONTEXT)
    found = []
    for chunk in samples.split(CHUNK, dim=1):
        probability, state = model(torch.cat([before, chunk], dim=1), state, torch.tensor(RATE))
        before = chunk[:, -CONTEXT:]
        found.append(probability)
    return torch.cat(found, dim=1)


def segments(probabilities, seconds):
    """Return the segments of speech, `[{"start": 0.5, "end": 1.25}, ...]`, in seconds.

    Two thresholds keep a voice at the edge from flickering, and short pauses belong to the speech.
    """
    found, begin, last = [], None, 0
    for index, probability in enumerate(probabilities):
        if probability >= (BEGINS if begin is None else GOES_ON):
            begin = index if begin is None else begin
            last = index
        elif begin is not None and index - last >= PAUSE:
            found.append((begin, last + 1))
            begin = None
    if begin is not None:
        found.append((begin, last + 1))
    step = CHUNK / RATE
    return [
        {"start": round(begin * step, 3), "end": round(min(end * step, seconds), 3)}
        for begin, end in found
        if end - begin >= SHORTEST
    ]
