"""Audio from requests: WAV files as tensors, at the sample rate that a model takes."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from handlers.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Callable

_PCM, _FLOAT, _EXTENSIBLE = 1, 3, 0xFFFE
_CODECS = {2: "ADPCM", 6: "A-law", 7: "mu-law", 0x55: "MP3"}
_MOST_CHANNELS = 64
_READ = "WAV files with PCM of 8, 16, 24 or 32 bits, or floats of 32 or 64, are read"

_ZEROS = 16  # zero crossings of the filter on each side: the more, the steeper
_ROLLOFF = 0.95  # of the lower of the two rates' bandwidth
_MOST_WEIGHTS = 1 << 22  # limits the filter: rates without a common divisor would need one for each sample of a second


@dataclass(frozen=True)
class _Format:
    code: int
    channels: int
    rate: int
    bits: int


def decode_wav(content: bytes | bytearray | memoryview) -> tuple[torch.Tensor, int]:
    """Decode a WAV file: its samples from -1 to 1, float32 `[channels, samples]`, and its sample rate in Hz.

    A file that ends before its header says so is read as far as it goes, since recorders leave such files. Written from
    Microsoft's description of RIFF: `wave` of the standard library reads no floats, and before Python 3.12 no WAVEX.

    Raises:
        BadInputError: it is not a WAV file, or not one that is read here.
    """
    view = memoryview(content).cast("B")
    if bytes(view[:4]) != b"RIFF" or bytes(view[8:12]) != b"WAVE":
        raise BadInputError(f"the body is no WAV file, it begins with {bytes(view[:12])!r}; {_READ}")
    form, at = None, 12
    while at + 8 <= len(view):
        name, size = bytes(view[at : at + 4]), int.from_bytes(view[at + 4 : at + 8], "little")
        body = view[at + 8 : at + 8 + size]
        if name == b"fmt ":
            form = _read_format(body)
        elif name == b"data":
            if form is None:
                raise BadInputError("the WAV file is damaged: its samples come before their format")
            return _samples(body, form), form.rate
        at += 8 + size + size % 2  # chunks start at even offsets
    raise BadInputError("the WAV file is damaged or cut short: it holds no samples")


def _read_format(body: memoryview) -> _Format:
    if len(body) < 16:
        raise BadInputError(f"the WAV file is damaged: its format has {len(body)} bytes")
    code, channels, rate, _, _, bits = struct.unpack_from("<HHIIHH", body)
    if code == _EXTENSIBLE and len(body) >= 26:
        code = int.from_bytes(body[24:26], "little")
    if (code, bits) not in _DECODERS:
        what = _CODECS.get(code, "PCM" if code == _PCM else "floats" if code == _FLOAT else f"format {code}")
        raise BadInputError(f"the WAV file holds {what} of {bits} bits; {_READ}")
    if not 1 <= channels <= _MOST_CHANNELS or rate < 1:
        raise BadInputError(f"the WAV file is damaged: {channels} channels at {rate} Hz")
    return _Format(code, channels, rate, bits)


def _samples(body: memoryview, form: _Format) -> torch.Tensor:
    frame = form.channels * form.bits // 8
    count = len(body) // frame
    if count == 0:
        raise BadInputError("the WAV file holds no samples")
    flat = _DECODERS[form.code, form.bits](bytearray(body[: count * frame]))
    return flat.reshape(count, form.channels).T.contiguous()


def _integers(dtype: torch.dtype, scale: float) -> Callable[[bytearray], torch.Tensor]:
    return lambda data: torch.frombuffer(data, dtype=dtype).to(torch.float32) / scale


def _bytes(data: bytearray) -> torch.Tensor:
    return (torch.frombuffer(data, dtype=torch.uint8).to(torch.float32) - 128) / 128


def _threes(data: bytearray) -> torch.Tensor:
    low, middle, high = torch.frombuffer(data, dtype=torch.uint8).reshape(-1, 3).to(torch.int32).unbind(1)
    return ((high << 24 | middle << 16 | low << 8) >> 8).to(torch.float32) / (1 << 23)


def _floats(dtype: torch.dtype) -> Callable[[bytearray], torch.Tensor]:
    return lambda data: torch.frombuffer(data, dtype=dtype).to(torch.float32)


# Little-endian, as is every machine that torch runs on.
_DECODERS: dict[tuple[int, int], Callable[[bytearray], torch.Tensor]] = {
    (_PCM, 8): _bytes,
    (_PCM, 16): _integers(torch.int16, 1 << 15),
    (_PCM, 24): _threes,
    (_PCM, 32): _integers(torch.int32, 1 << 31),
    (_FLOAT, 32): _floats(torch.float32),
    (_FLOAT, 64): _floats(torch.float64),
}


def resample(sound: torch.Tensor, source: int, target: int) -> torch.Tensor:
    """Change the sample rate of `[channels, samples]`: band-limited interpolation with a windowed sinc.

    Return `ceil(samples * target / source)` samples.

    Raises:
        BadInputError: the rates have too little in common.
    """
    if source == target:
        return sound
    divisor = math.gcd(source, target)
    source, target = source // divisor, target // divisor
    cutoff = min(source, target) * _ROLLOFF
    width = math.ceil(_ZEROS * source / cutoff)
    if target * (2 * width + source) > _MOST_WEIGHTS:
        rates = f"{source * divisor} Hz", f"{target * divisor} Hz"
        raise BadInputError(f"the sound has {rates[0]} and the model takes {rates[1]}: send one of a usual rate")
    # One filter for each position of a new sample between the old ones; one step is `source` old samples.
    places = torch.arange(-width, width + source, dtype=torch.float64) / source
    shifts = torch.arange(target, dtype=torch.float64)[:, None] / target
    times = (places - shifts) * cutoff
    window = torch.where(times.abs() < _ZEROS, torch.cos(times * math.pi / (2 * _ZEROS)) ** 2, 0.0)
    weights = (torch.sinc(times) * window * cutoff / source).to(sound.dtype)
    padded = functional.pad(sound[:, None], (width, width + source))
    steps = functional.conv1d(padded, weights[:, None], stride=source)
    count = math.ceil(sound.shape[1] * target / source)
    return steps.transpose(1, 2).reshape(len(sound), -1)[:, :count]
