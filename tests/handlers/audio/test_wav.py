import io
import math
import struct
import wave

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from handlers import BadInputError
from handlers.audio.wav import decode_wav, resample


def wav(samples, rate=8000, *, width=2, channels=1):
    """Encode a file with the standard library; `samples` are integers, the channels of a moment side by side."""
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(width)
        file.setframerate(rate)
        signed = width > 1
        file.writeframes(b"".join(value.to_bytes(width, "little", signed=signed) for value in samples))
    return stream.getvalue()


def riff(*chunks, size=None):
    body = b"".join(name + struct.pack("<I", len(data)) + data + b"\0" * (len(data) % 2) for name, data in chunks)
    return b"RIFF" + struct.pack("<I", len(body) + 4 if size is None else size) + b"WAVE" + body


def form(code=1, channels=1, rate=8000, bits=16, more=b""):
    return b"fmt ", struct.pack("<HHIIHH", code, channels, rate, 0, 0, bits) + more


DATA = (b"data", struct.pack("<4h", 0, 16384, -32768, 32767))


@pytest.mark.parametrize(("width", "zero"), [(1, 128), (2, 0), (3, 0), (4, 0)])
def test_pcm(width, zero):
    half = 1 << (8 * width - 2)
    samples = [zero, zero + half, zero - half, zero - 2 * half, zero + 2 * half - 1]
    sound, rate = decode_wav(wav(samples, 44100, width=width))
    assert rate == 44100
    assert sound.shape == (1, 5)
    assert sound[0, :4].tolist() == [0.0, 0.5, -0.5, -1.0]
    assert sound[0, 4].item() == pytest.approx(1, abs=0.01)
    assert sound.dtype == torch.float32


def test_channels():
    sound, _ = decode_wav(bytearray(wav([1 << 14, -(1 << 14), 0, 1 << 14], channels=2)))
    assert sound.tolist() == [[0.5, 0.0], [-0.5, 0.5]]
    assert sound.is_contiguous()


@pytest.mark.parametrize(("letter", "bits"), [("f", 32), ("d", 64)])
def test_floats(letter, bits):
    data = struct.pack(f"<3{letter}", 0.5, -0.25, 1.5)
    assert decode_wav(riff(form(3, bits=bits), (b"data", data)))[0].tolist() == [[0.5, -0.25, 1.5]]


def test_the_extensible_form():
    more = struct.pack("<HHI", 22, 16, 4) + struct.pack("<H", 1) + b"\0\0\0\0\x10\0\x80\0\0\xaa\0\x38\x9b\x71"
    assert decode_wav(riff(form(0xFFFE, more=more), DATA))[0].shape == (1, 4)


def test_other_chunks_are_passed_over_whatever_their_length():
    assert decode_wav(riff((b"LIST", b"odd"), form(), (b"fact", b"\4\0\0\0"), DATA))[0][0, 1] == 0.5


def test_a_file_that_ends_before_its_header_says():
    """As recorders leave it that write to a pipe; half a sample is left out."""
    content = riff(form(), DATA, size=0xFFFFFFFF)
    broken = content[:40] + b"\xff\xff\xff\xff" + content[44:]
    assert decode_wav(broken)[0].shape == (1, 4)
    assert decode_wav(broken[:-1])[0].tolist() == [[0.0, 0.5, -1.0]]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "no WAV file, it begins with b''"),
        (b"ID3\x03 an MP3 file", "begins with b'ID3"),
        (b"RIFF\x04\0\0\0AVI ", "no WAV file"),
        (riff(), "no samples"),
        (riff(form()), "no samples"),
        (riff(form(), (b"data", b"")), "no samples"),
        (riff(form(), (b"data", b"\0")), "no samples"),
        (riff(DATA), "before their format"),
        (riff((b"fmt ", b"\1\0")), "format has 2 bytes"),
        (riff(form(bits=12), DATA), "PCM of 12 bits; WAV files with PCM of 8"),
        (riff(form(3, bits=16), DATA), "floats of 16 bits"),
        (riff(form(7, bits=8), DATA), "mu-law of 8 bits"),
        (riff(form(0x1234), DATA), "format 4660"),
        (riff(form(0xFFFE), DATA), "format 65534"),
        (riff(form(channels=0), DATA), "0 channels"),
        (riff(form(channels=65), DATA), "65 channels"),
        (riff(form(rate=0), DATA), "at 0 Hz"),
    ],
)
def test_what_is_no_wav(content, reason):
    with pytest.raises(BadInputError, match=reason):
        decode_wav(content)


@given(st.data())
def test_any_bytes_are_a_sound_or_a_bad_input(data):
    """A damaged file gives finite work and our error, nothing else."""
    content = bytearray(riff(form(channels=data.draw(st.integers(0, 3))), (b"LIST", b"x"), DATA))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(0, len(content))) :]
    try:
        sound, rate = decode_wav(content)
    except BadInputError:
        return
    assert sound.dim() == 2
    assert sound.numel() > 0
    assert rate > 0


def sine(hertz, rate, seconds=0.5):
    return torch.sin(2 * math.pi * hertz * torch.arange(int(rate * seconds), dtype=torch.float64) / rate).float()[None]


@pytest.mark.parametrize(
    ("source", "target"), [(8000, 16000), (44100, 16000), (48000, 16000), (16000, 44100), (11025, 16000), (16000, 8000)]
)
def test_a_tone_stays_the_tone(source, target):
    found = resample(sine(440, source), source, target)
    expected = sine(440, target)
    assert found.shape[1] == math.ceil(int(source * 0.5) * target / source)
    middle = slice(target // 50, found.shape[1] - target // 50)
    difference = (found[:, middle] - expected[:, : found.shape[1]][:, middle]).abs().max()
    assert difference < 0.01


def test_tones_that_the_lower_rate_cannot_hold_are_filtered_out():
    """Else they would come back as others."""
    assert resample(sine(7000, 16000), 16000, 8000)[:, 100:-100].abs().max() < 0.01
    assert resample(sine(3000, 16000), 16000, 8000)[:, 100:-100].abs().max() > 0.95


def test_channels_are_resampled_alike():
    both = torch.cat([sine(200, 8000), sine(300, 8000)])
    found = resample(both, 8000, 16000)
    assert torch.allclose(found[1:], resample(both[1:], 8000, 16000))
    assert found.shape == (2, 8000)


def test_the_same_rate_is_the_same_sound():
    sound = sine(440, 8000)
    assert resample(sound, 8000, 8000) is sound


@pytest.mark.parametrize("rate", [44101, 3_200_000_000])
def test_rates_that_have_too_little_in_common(rate):
    with pytest.raises(BadInputError, match=f"has {rate} Hz and the model takes 16000 Hz"):
        resample(torch.zeros(1, 10), rate, 16000)


def test_a_very_short_sound():
    assert resample(torch.ones(1, 1), 8000, 16000).shape == (1, 2)
    assert resample(torch.ones(1, 1), 16000, 8000).shape == (1, 1)
