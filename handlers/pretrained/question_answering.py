"""The handler that finds the answers to questions in texts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from handlers.errors import BadInputError
from handlers.pretrained import asking, lengths
from handlers.pretrained.asking import Parameter, Piece
from handlers.pretrained.handler import PretrainedTextHandler

_LONGEST = 384
_MASKED = -10_000.0


class PretrainedQuestionAnswerer(PretrainedTextHandler):
    """A handler that answers a question with a part of a text.

    A request is `{"question": "...", "context": "..."}`, alone or as `inputs`. The reply, with `top_k` a list:

    `{"score": 0.9, "start": 11, "end": 15, "answer": "Rome"}`

    A text that is longer than `max_seq_len` tokens is read in windows that overlap by `doc_stride`. An answer has at
    most `max_answer_len` tokens, and is whole words unless `align_to_words` is false. `handle_impossible_answer` also
    takes an empty answer, with the score that the model gives to there being none. `handler: {reply: torchserve}` in
    model-config.yaml replies with the answer alone, as TorchServe's example does.
    """

    task = "question-answering"
    needs_places = True
    wanted = 'a question and a text: {"question": "...", "context": "..."}'
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "top_k": asking.count(1),
        "doc_stride": asking.count(None, unlimited=True),
        "max_answer_len": asking.count(15),
        "max_seq_len": asking.count(_LONGEST),
        "max_question_len": asking.count(64),
        "handle_impossible_answer": asking.flag(False),
        "align_to_words": asking.flag(True),
    }

    def encode(self, value: Any, parameters: Mapping[str, Any]) -> list[Piece]:
        """Make tokens of question and text, in windows if it is long."""
        if not isinstance(value, Mapping) or not {"question", "context"} <= value.keys():
            raise BadInputError(f"there is no question, or no context: send {self.wanted}")
        question, context = (asking.text_of(value[name]) for name in ("question", "context"))
        question = lengths.enough(self.tokenizer, question, parameters["max_question_len"])
        longest = min(parameters["max_seq_len"], self.longest or parameters["max_seq_len"])
        asked = len(self.tokenizer(question, truncation=True, max_length=parameters["max_question_len"])["input_ids"])
        question = self._shortened(question, parameters["max_question_len"])
        room = longest - asked - self.tokenizer.num_special_tokens_to_add(pair=True)
        stride = min(parameters["doc_stride"] or max(longest // 2, 1), 128)
        if room <= stride:
            stride = room // 2
        if room < 1:
            raise BadInputError(f"the question leaves no room for the text: together they have {longest} tokens")
        found = self.tokenizer(
            question,
            context,
            truncation="only_second",
            max_length=longest,
            stride=stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_attention_mask=True,
            verbose=False,
        )
        windows = ({name: rows[index] for name, rows in found.items()} for index in range(len(found["input_ids"])))
        return [self.piece(one, encoding) for one, encoding in zip(windows, found.encodings, strict=True)]

    def _shortened(self, question: str, longest: int) -> str:
        """Cut a question at a number of tokens."""
        places = self.tokenizer(question, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        return question if len(places) <= longest else question[: places[longest - 1][1]]

    def take(self, output: Any, pieces: list[Piece]) -> list[Any]:
        """Return the scores of each token as the beginning and as the end, `[2, tokens]`."""
        both = torch.stack([output["start_logits"], output["end_logits"]], dim=1).float().cpu()
        return [rows[:, : piece.length] for rows, piece in zip(both, pieces, strict=True)]

    def answer(self, value: Any, pieces: list[Piece], parameters: Mapping[str, Any]) -> Any:
        """Return the best answers of all windows."""
        context, top_k = asking.text_of(value["context"]), parameters["top_k"]
        found: dict[str, dict[str, Any]] = {}
        nothing = 1.0
        for piece in pieces:
            scores, none = self._spans(piece, parameters["max_answer_len"])
            nothing = min(nothing, none)
            for first, last, score in _best(scores, 2 * top_k + 10 if parameters["align_to_words"] else top_k):
                start, end = self._characters(piece.about, first, last, words=parameters["align_to_words"])
                text = context[start:end]
                known = found.setdefault(text.lower(), {"score": 0.0, "start": start, "end": end, "answer": text})
                known["score"] += score
        answers = list(found.values())
        if parameters["handle_impossible_answer"]:
            answers.append({"score": nothing, "start": 0, "end": 0, "answer": ""})
        answers = sorted(answers, key=lambda one: -one["score"])[:top_k]
        if self.as_torchserve:
            return answers[0]["answer"] if answers else ""
        return answers[0] if len(answers) == 1 else answers

    def _spans(self, piece: Piece, longest: int) -> tuple[torch.Tensor, float]:
        """Return the probability of each span `[first, last]`, and that of there being no answer.

        The first token of a model stands for that, so it takes part in the softmax, and in no span.
        """
        ids, sequences = piece.features["input_ids"], piece.about.sequence_ids
        inside = torch.tensor([one == 1 for one in sequences])
        known = inside | (torch.tensor(ids) == self.tokenizer.cls_token_id)
        start, end = piece.output.masked_fill(~known, _MASKED).softmax(dim=1)
        none = float(start[0] * end[0])
        spans = (start[:, None] * end[None, :]).triu().tril(longest - 1)
        return spans * (inside[:, None] & inside[None, :]), none

    def _characters(self, encoding: Any, first: int, last: int, *, words: bool) -> tuple[int, int]:
        """Return the place of a span in the text, widened to whole words where the tokenizer knows words."""
        if words:
            begin, end = encoding.token_to_word(first), encoding.token_to_word(last)
            if begin is not None and end is not None:
                places = encoding.word_to_chars(begin, 1), encoding.word_to_chars(end, 1)
                if None not in places:
                    return places[0][0], places[1][1]
        return encoding.offsets[first][0], encoding.offsets[last][1]


def _best(spans: torch.Tensor, count: int) -> list[tuple[int, int, float]]:
    """Return the best spans that have a probability at all: first token, last token, probability."""
    flat = spans.flatten()
    scores, places = flat.topk(min(count, len(flat)))
    size = spans.shape[1]
    return [
        (place // size, place % size, score)
        for place, score in zip(places.tolist(), scores.tolist(), strict=True)
        if score > 0
    ]
