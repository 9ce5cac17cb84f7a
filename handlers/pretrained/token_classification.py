"""The handler that labels the words of texts, such as the names in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from handlers.pretrained import asking
from handlers.pretrained.asking import Parameter, Piece
from handlers.pretrained.handler import PretrainedTextHandler

if TYPE_CHECKING:
    from collections.abc import Sequence


STRATEGIES = ("none", "simple", "first", "average", "max")


@dataclass(frozen=True, eq=False)
class Token:
    """One token of a text that is no special one: its place, the text of it, and the scores of its classes.

    `continues` says that it is no beginning of a word.
    """

    index: int
    word: str
    start: int
    end: int
    scores: torch.Tensor
    continues: bool


class PretrainedTokenClassifier(PretrainedTextHandler):
    """A handler that labels tokens, or groups of them: a text in, those of interest out, each with label and place.

    The reply to `Ada Lovelace lives in Rome`:

    `[{"entity_group": "PER", "score": 0.98, "word": "ada lovelace", "start": 0, "end": 12}]`

    `aggregation_strategy` says how tokens become groups: `simple` (the default) joins neighbours of one label; `first`,
    `average` and `max` first choose one label for each word; `none` leaves each token alone, as `entity` with its
    `index`. Labels in `ignore_labels` are left out. `handler: {reply: torchserve}` in model-config.yaml replies with
    all tokens and their labels, as TorchServe's example does.
    """

    task = "token-classification"
    needs_places = True
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "aggregation_strategy": asking.choice("simple", *STRATEGIES),
        "ignore_labels": asking.texts(("O",)),
        **PretrainedTextHandler.parameters,
    }

    def encode(self, value: Any, parameters: Mapping[str, Any]) -> list[Piece]:
        """Make tokens of a text, and keep their places."""
        text = asking.text_of(value)
        encoding = self.tokens(parameters, text, return_special_tokens_mask=True, return_offsets_mapping=True)
        return [self.piece(encoding, (text, encoding["offset_mapping"], encoding["special_tokens_mask"]))]

    def answer(self, value: Any, pieces: list[Piece], parameters: Mapping[str, Any]) -> Any:  # noqa: ARG002
        """Return the labelled tokens, or groups of them."""
        (piece,) = pieces
        if self.as_torchserve:
            words = self.tokenizer.convert_ids_to_tokens(piece.features["input_ids"])
            classes = piece.output.argmax(dim=1).tolist()
            return [[word, self.labels[index]] for word, index in zip(words, classes, strict=True)]
        strategy = parameters["aggregation_strategy"]
        ignored = frozenset(parameters["ignore_labels"])
        tokens = self._tokens(piece)
        if strategy in ("first", "average", "max"):
            entities = [self._word(word, strategy) for word in words_of(tokens)]
        else:
            entities = [self._entity(one) for one in tokens]
        if strategy == "none":
            return [one for one in entities if one["entity"] not in ignored]
        groups = [self._group(one) for one in neighbours(entities)]
        return [one for one in groups if one["entity_group"] not in ignored]

    def _tokens(self, piece: Piece) -> list[Token]:
        text, offsets, special = piece.about
        ids = piece.features["input_ids"]
        scores = piece.output.softmax(dim=1)
        subwords = getattr(self.tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None)
        found = []
        for index, word in enumerate(self.tokenizer.convert_ids_to_tokens(ids)):
            if special[index]:
                continue
            start, end = offsets[index]
            if ids[index] == self.tokenizer.unk_token_id:
                word, continues = text[start:end], False
            elif subwords:
                continues = len(word) != end - start
            else:  # a token begins a word where a blank is before it, or its first character is one
                continues = start > 0 and " " not in text[start - 1 : start + 1]
            found.append(Token(index, word, start, end, scores[index], continues))
        return found

    def _entity(self, token: Token) -> dict[str, Any]:
        score, label = token.scores.max(dim=0)
        return {
            "entity": self.labels[int(label)],
            "score": float(score),
            "index": token.index,
            "word": token.word,
            "start": token.start,
            "end": token.end,
        }

    def _word(self, tokens: Sequence[Token], strategy: str) -> dict[str, Any]:
        """Return one entity for the tokens of a word."""
        rows = torch.stack([token.scores for token in tokens])
        if strategy == "average":
            scores = rows.mean(dim=0)
        else:
            scores = rows[0 if strategy == "first" else int(rows.max(dim=1).values.argmax())]
        score, label = scores.max(dim=0)
        return {
            "entity": self.labels[int(label)],
            "score": float(score),
            "word": self.tokenizer.convert_tokens_to_string([token.word for token in tokens]),
            "start": tokens[0].start,
            "end": tokens[-1].end,
        }

    def _group(self, entities: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {
            "entity_group": entities[0]["entity"].split("-", 1)[-1],
            "score": sum(one["score"] for one in entities) / len(entities),
            "word": self.tokenizer.convert_tokens_to_string([one["word"] for one in entities]),
            "start": entities[0]["start"],
            "end": entities[-1]["end"],
        }


def words_of(tokens: Sequence[Token]) -> list[list[Token]]:
    """Group the tokens by words."""
    found: list[list[Token]] = []
    for token in tokens:
        if token.continues and found:
            found[-1].append(token)
        else:
            found.append([token])
    return found


def neighbours(entities: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Group entities of one label side by side; one whose label begins with B- begins a group."""
    found: list[list[dict[str, Any]]] = []
    last = None
    for entity in entities:
        begins, kind = _parts(entity["entity"])
        if found and kind == last and not begins:
            found[-1].append(entity)
        else:
            found.append([entity])
        last = kind
    return found


def _parts(label: str) -> tuple[bool, str]:
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label
