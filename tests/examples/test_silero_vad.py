"""Segments of speech from probabilities; the model itself is asked in tests/integration/test_examples.py."""

import pytest

from examples.silero_vad.speech_handler import segments

STEP = 0.032


def chunks(text):
    """Return a probability for each sign: none, one at which speech goes on, one at which it begins."""
    return [{".": 0.1, "-": 0.4, "#": 0.9}[sign] for sign in text]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        ("....", []),
        ("########", [(0, 8)]),
        (".#######..", []),  # too short
        ("..##########......", [(2, 12)]),
        ("..####---####.....", [(2, 13)]),  # between the thresholds it goes on
        ("..---#########....", [(5, 14)]),  # and does not begin
        ("#####...#####.....", [(0, 13)]),  # a short pause
        ("########....########", [(0, 8), (12, 20)]),
        ("########----....", [(0, 12)]),
    ],
)
def test_segments(text, expected):
    seconds = len(text) * STEP
    assert segments(chunks(text), seconds) == [
        {"start": round(begin * STEP, 3), "end": round(end * STEP, 3)} for begin, end in expected
    ]


def test_a_segment_ends_where_the_recording_does():
    assert segments(chunks("##########"), 0.31) == [{"start": 0.0, "end": 0.31}]
