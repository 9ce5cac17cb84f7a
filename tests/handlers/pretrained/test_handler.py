"""Which inputs of a batch run together."""

import pytest
import torch

from handlers.pretrained.asking import Piece
from handlers.pretrained.handler import PretrainedHandler
from handlers.pretrained.images import PretrainedImageClassifier
from handlers.pretrained.rewriting import PretrainedRewriter
from handlers.pretrained.speech import PretrainedSpeechRecognizer


class Handler(PretrainedHandler):
    largest_run = 3

    def alike(self, piece):
        return piece.about


def test_those_that_are_alike_and_not_much_longer_than_another():
    given = ((40, "a"), (90, "b"), (110, "a"), (60, "a"), *[(90, "b")] * 3)
    pieces = [Piece({}, length, about) for length, about in given]
    runs = [[(piece.length, piece.about) for piece in run] for run in Handler().runs(pieces)]
    assert runs == [[(110, "a"), (60, "a")], [(40, "a")], [(90, "b")] * 3, [(90, "b")]]
    assert list(Handler().runs([])) == []
    assert [len(run) for run in PretrainedHandler().runs(pieces)] == [6, 1]


def test_no_run_for_what_little_padding_it_would_spare():
    """Each run costs as much as some fifty tokens: seven sentences of 6 to 16 run together, sixty-four do not."""
    few, many = ([Piece({}, length) for length in (16, *[6] * count)] for count in (6, 64))
    assert [len(run) for run in PretrainedHandler().runs(few)] == [7]
    assert [len(run) for run in PretrainedHandler().runs(many)] == [1, 32, 32]


def piece(features=None, **about):
    return Piece({name: torch.zeros(shape) for name, shape in (features or {}).items()}, 1, about)


@pytest.mark.parametrize(
    ("handler", "one", "other", "together"),
    [
        (PretrainedRewriter, piece(num_beams=2, seed=1), piece(seed=1, num_beams=2), True),
        (PretrainedRewriter, piece(num_beams=2), piece(num_beams=3), False),
        (PretrainedRewriter, piece(do_sample=True), piece(do_sample=True), False),
        (PretrainedSpeechRecognizer, piece({"x": (2, 3)}), piece({"x": (2, 3)}), True),
        (PretrainedSpeechRecognizer, piece({"x": (2, 3)}), piece({"x": (2, 4)}), False),
        (PretrainedSpeechRecognizer, piece(language="de"), piece(language="fr"), False),
        (PretrainedImageClassifier, piece({"pixel_values": (3, 4, 6)}), piece({"pixel_values": (3, 4, 6)}), True),
        (PretrainedImageClassifier, piece({"pixel_values": (3, 4, 6)}), piece({"pixel_values": (3, 6, 4)}), False),
    ],
)
def test_what_runs_together(handler, one, other, together):
    assert len(list(handler().runs([one, other]))) == (1 if together else 2)
