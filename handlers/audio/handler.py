"""The handler for models that take audio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from handlers.audio import wav
from handlers.base import BaseHandler
from handlers.batch.inputs import numbers_to_tensor, require
from handlers.batch.outputs import run_by_shape
from handlers.errors import BadInputError, LoadError, TooLargeError

if TYPE_CHECKING:
    from handlers.batch.request import RequestContext
    from handlers.context import Context


class AudioHandler(BaseHandler):
    """A handler for audio, which the model gets as float32 `[batch, channels, samples]`, from -1 to 1.

    A request is a WAV file: `curl localhost:8080/predictions/listener -T speech.wav`. Or it is a JSON list of samples,
    or of one such list for each channel, at the model's own rate. The reply is the model's output as nested lists; a
    subclass changes that in `postprocess_one`.

    `sample_rate`, in Hz, is what the model takes: audio at other rates is resampled. None leaves it as it is. `handler:
    {sample_rate: 8000}` in model-config.yaml takes precedence. `mono` mixes the channels to one. Audio longer than
    `longest_s` seconds is refused.

    Inputs of one length run as one batch, those of other lengths apart, so an answer does not depend on the rest of the
    batch.
    """

    sample_rate: int | None = 16_000
    mono: bool = True
    longest_s: float = 600.0

    def initialize(self, context: Context) -> None:
        """Load the model, and read its sample rate.

        Raises:
            LoadError: the model cannot be loaded, or the sample rate is wrong.
        """
        super().initialize(context)
        rate = self._handler_config().get("sample_rate", self.sample_rate)
        if rate is not None and (type(rate) is not int or rate < 1):
            raise LoadError(
                f"handler.sample_rate in model-config.yaml is {rate!r}",
                hint="give the rate that the model takes, in Hz, or null to leave sounds as they are",
            )
        self.sample_rate = rate

    def preprocess_one(self, data: Any, context: RequestContext) -> torch.Tensor:
        """Turn the audio of a request into the model's input, `[channels, samples]`.

        Raises:
            BadInputError: the request holds no audio, or of another number of channels.
            TooLargeError: it is longer than `longest_s`.
        """
        require(data, context.parameters, "a WAV file")
        if isinstance(data, bytes | bytearray | memoryview):
            return self._decode(data)
        if not isinstance(data, list) or not data:
            raise BadInputError(f"the body is {type(data).__name__}: send a WAV file, or a JSON list of samples")
        sound = numbers_to_tensor(data)
        if sound.dim() == 1:
            sound = sound[None]
        if sound.dim() != 2 or not sound.numel():
            raise BadInputError(
                f"the samples have the shape {list(sound.shape)}: send [samples] or [channels][samples]"
            )
        return self._mixed(sound)

    def _decode(self, content: bytes | bytearray | memoryview) -> torch.Tensor:
        sound, rate = wav.decode_wav(content)
        seconds = sound.shape[1] / rate
        if seconds > self.longest_s:
            raise TooLargeError(f"the sound is {seconds:.1f} s long: at most {self.longest_s:g} s are taken")
        sound = self._mixed(sound)
        return sound if self.sample_rate is None else wav.resample(sound, rate, self.sample_rate)

    def _mixed(self, sound: torch.Tensor) -> torch.Tensor:
        return sound.mean(dim=0, keepdim=True) if self.mono and len(sound) > 1 else sound

    def collate(self, items: list[Any]) -> Any:
        """Stack the inputs to a tensor `[batch, channels, samples]`; return a list if their lengths differ."""
        return super().collate(items) if len({item.shape for item in items}) == 1 else items

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the model on the inputs of one length at a time.

        Return the model's output, or a list of its parts if the lengths differ.
        """
        if isinstance(data, list):
            run = super().inference
            return run_by_shape(data, lambda sounds: self.split(run(sounds, *args, **kwargs)))
        return super().inference(data, *args, **kwargs)

    def postprocess_one(self, output: Any, context: RequestContext) -> Any:  # noqa: ARG002
        """Turn the model's output for one request into nested lists; a dict or tuple of tensors by its parts."""
        if isinstance(output, dict):
            return {name: one.tolist() for name, one in output.items()}
        return [one.tolist() for one in output] if isinstance(output, tuple) else output.tolist()
