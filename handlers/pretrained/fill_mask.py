"""The handler that finds words for the gaps in texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from handlers.errors import BadInputError, LoadError
from handlers.pretrained import asking
from handlers.pretrained.asking import Parameter, Piece
from handlers.pretrained.handler import PretrainedTextHandler

if TYPE_CHECKING:
    from handlers.context import Context


class PretrainedMaskFiller(PretrainedTextHandler):
    """A handler that fills the gaps of a text, each written as the tokenizer's mask, such as `[MASK]`.

    The reply to `Paris is in [MASK].`; with several gaps, a list of such a list for each:

    `[{"score": 0.9, "token": 2605, "token_str": "france", "sequence": "paris is in france."}]`

    `top_k` is the number of words, and `targets` limits them to some.
    """

    task = "fill-mask"
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "top_k": asking.count(5),
        "targets": asking.text_or_texts(None, "a text, or a list of texts"),
        **PretrainedTextHandler.parameters,
    }

    def initialize(self, context: Context) -> None:
        """Load the model and the tokenizer.

        Raises:
            LoadError: they cannot be loaded, or the tokenizer has no mask.
        """
        super().initialize(context)
        if self.tokenizer.mask_token_id is None:
            raise LoadError(
                "the tokenizer has no mask token", hint="build the archive with another --task, or set mask_token"
            )

    def encode(self, value: Any, parameters: Mapping[str, Any]) -> list[Piece]:
        """Make tokens of a text, and find its gaps."""
        piece = self.piece(self.tokens(parameters, asking.text_of(value)))
        ids = piece.features["input_ids"]
        gaps = [index for index, number in enumerate(ids) if number == self.tokenizer.mask_token_id]
        if not gaps:
            raise BadInputError(f"the text has no gap: write {self.tokenizer.mask_token} where a word is to be found")
        piece.about = gaps, self._targets(parameters["targets"]) if parameters["targets"] else None
        return [piece]

    def _targets(self, given: str | list[str]) -> list[int]:
        """Return the numbers of the words that may be found.

        Raises:
            BadInputError: one of them is no token.
        """
        vocabulary = self.tokenizer.get_vocab()
        found = []
        for word in [given] if isinstance(given, str) else given:
            number = vocabulary.get(word)
            if number is None:
                parts = self.tokenizer(word, add_special_tokens=False)["input_ids"]
                if not parts:
                    raise BadInputError(f"the target {word[:40]!r} is no token of the model")
                number = parts[0]
            found.append(number)
        return list(dict.fromkeys(found))

    def take(self, output: Any, pieces: list[Piece]) -> list[Any]:
        """Keep the scores of the gaps alone: those of a whole text are a vocabulary for each of its tokens."""
        logits = output["logits"]
        return [row[piece.about[0]].float().cpu() for row, piece in zip(logits, pieces, strict=True)]

    def answer(self, value: Any, pieces: list[Piece], parameters: Mapping[str, Any]) -> Any:  # noqa: ARG002
        """Return the best words for each gap; for a single gap, not in a list."""
        (piece,) = pieces
        scores = piece.output.softmax(dim=1)
        gaps, targets = piece.about
        if targets is not None:
            scores = scores[:, targets]
        best, numbers = scores.topk(min(parameters["top_k"], scores.shape[1]), dim=1)
        if targets is not None:
            numbers = torch.tensor(targets)[numbers]
        found = [
            [self._filled(piece, gap, score, number) for score, number in zip(row, chosen, strict=True)]
            for gap, row, chosen in zip(gaps, best.tolist(), numbers.tolist(), strict=True)
        ]
        return found[0] if len(found) == 1 else found

    def _filled(self, piece: Piece, gap: int, score: float, number: int) -> dict[str, Any]:
        ids = list(piece.features["input_ids"])
        ids[gap] = number
        kept = [one for one in ids if one != self.tokenizer.pad_token_id]
        # With several gaps the others are shown as such.
        whole = self.tokenizer.decode(kept, skip_special_tokens=len(piece.about[0]) == 1)
        return {"score": score, "token": number, "token_str": self.tokenizer.decode([number]), "sequence": whole}
