"""The handler that writes down what is said."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Hashable, Mapping
from typing import Any, ClassVar

import torch

from handlers.audio import wav
from handlers.errors import BadInputError, TooLargeError
from handlers.pretrained import asking, loading
from handlers.pretrained.asking import Parameter, Piece
from handlers.pretrained.handler import PretrainedHandler


class PretrainedSpeechRecognizer(PretrainedHandler):
    """A handler that writes down speech: a WAV file in, `{"text": "..."}` out.

    `curl localhost:8080/predictions/listener -T speech.wav`, or the file in base64 as `inputs`. Sound at other rates
    than the model's is resampled, and channels are mixed to one. More than `longest_s` seconds (600) are refused.
    A model such as Whisper takes the parameters `language`, `task` (`transcribe` or `translate`) and `max_new_tokens`.
    """

    task = "automatic-speech-recognition"
    wanted = 'a WAV file, or {"inputs": "<base64>"}'
    longest_s: float = 600.0
    largest_run: int = 8
    most_new_tokens: int = 448
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "language": asking.text(None),
        "task": asking.choice(None, "transcribe", "translate"),
        "max_new_tokens": asking.count(None),
    }

    def __init__(self) -> None:
        super().__init__()
        self.processor: Any = None

    def load_inputs(self, saved: loading.Saved) -> None:
        """Load the processor: the feature extractor, and the tokenizer that spells the text."""
        self.processor = loading.load_processor(saved)

    def model_class(self, saved: loading.Saved) -> str:
        """Return the class for what the architecture's name says that the model does."""
        return "AutoModelForCTC" if (saved.architecture or "").endswith("ForCTC") else super().model_class(saved)

    @property
    def writes(self) -> bool:
        """Whether the model writes token by token, and does not spell each moment of the sound."""
        return bool(getattr(self.model.config, "is_encoder_decoder", False))

    def encode(self, value: Any, parameters: Mapping[str, Any]) -> list[Piece]:
        """Decode a WAV file, and make the model's input of it."""
        if isinstance(value, str):
            value = _decoded(value)
        if not isinstance(value, bytes | bytearray | memoryview):
            raise BadInputError(f"the body is {type(value).__name__}: send {self.wanted}")
        extractor = self.processor.feature_extractor
        sound, rate = wav.decode_wav(value)
        seconds = sound.shape[1] / rate
        if seconds > self.longest_s:
            raise TooLargeError(f"the sound is {seconds:.1f} s long: at most {self.longest_s:g} s are taken")
        if not sound.shape[1]:
            raise BadInputError("the WAV file holds no samples")
        samples = wav.resample(sound.mean(dim=0, keepdim=True), rate, extractor.sampling_rate)[0]
        options: dict[str, Any] = {}
        if len(samples) > getattr(extractor, "n_samples", len(samples)):
            options = {"truncation": False, "padding": "longest"}
        found = extractor(
            samples.numpy(),
            sampling_rate=extractor.sampling_rate,
            return_tensors="pt",
            return_attention_mask=self.writes or None,
            **options,
        )
        features = {name: one[0] for name, one in found.items()}
        asked = {name: parameters[name] for name in self.parameters if parameters[name] is not None}
        if asked.get("max_new_tokens", 0) > self.most_new_tokens:
            raise BadInputError(f"at most {self.most_new_tokens} max_new_tokens are written for a request")
        if asked and not self.writes:
            raise BadInputError(f"the model has no parameter {next(iter(asked))}: it spells what it hears")
        return [Piece(features, len(samples), asked)]

    def alike(self, piece: Piece) -> Hashable:
        """Return the length of the sound, as the model takes it, and the parameters."""
        shapes = tuple((name, one.shape) for name, one in piece.features.items())
        return shapes, tuple(sorted(piece.about.items()))

    def run(self, pieces: list[Piece]) -> list[Any]:
        """Return a text for each piece."""
        features = self.join(pieces)
        if self.writes:
            on_device = {name: one.to(self.device) for name, one in features.items()}
            with torch.inference_mode():
                written = self.model.generate(**on_device, **pieces[0].about)
            texts: list[Any] = self.processor.batch_decode(written, skip_special_tokens=True)
            return texts
        numbers = self.forward(features)["logits"].argmax(dim=-1).cpu()
        return list(self.processor.batch_decode(numbers))

    def answer(self, value: Any, pieces: list[Piece], parameters: Mapping[str, Any]) -> Any:  # noqa: ARG002
        """Return the text."""
        return {"text": pieces[0].output}


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInputError(f"the text is no base64 of a WAV file: {error}") from error
