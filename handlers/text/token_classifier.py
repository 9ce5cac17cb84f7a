"""The handler for models that label the words of a text, such as the names in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from handlers.errors import LoadError
from handlers.text.handler import TextHandler, Texts, tensor_of

if TYPE_CHECKING:
    from handlers.context import Context


class TokenClassifier(TextHandler):
    """A handler that labels tokens: a text in, the tokens with a label of interest out, each with label and place.

    The archive holds a `tokenizer.json`. The model takes what `TextHandler` says and returns `[batch, tokens, classes]`
    before softmax, alone or as `logits`.

    A request is a text: `curl localhost:8080/predictions/names -d "Ada lives in Rome"`. The reply has the tokens whose
    most probable label is not in `ignored` ("O" by default); `start` and `end` count characters of the text, `index`
    counts tokens:

    `[{"entity": "PER", "score": 0.98, "index": 1, "word": "Ada", "start": 0, "end": 3}]`
    """

    names_classes = True
    ignored: frozenset[str] = frozenset({"O"})

    def initialize(self, context: Context) -> None:
        """Load the model and the tokenizer.

        Raises:
            LoadError: one of them cannot be loaded, or the archive has no tokenizer.
        """
        super().initialize(context)
        if self.tokenizer is None:
            raise LoadError("there is no tokenizer.json in the archive", hint="add it with --extra-files")

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the model on `Texts`; return a pair for each text: the scores `[tokens, classes]`, and the encoding."""
        output = super().inference(data, *args, **kwargs)
        if not isinstance(data, Texts):
            return output
        return list(zip(tensor_of(output, "logits"), data.encodings, strict=True))

    def postprocess(self, data: Any) -> list[Any]:
        """Turn scores into a list of labelled tokens for each request."""
        return [self._labelled(scores, encoding) for scores, encoding in data]

    def _labelled(self, scores: torch.Tensor, encoding: Any) -> list[dict[str, Any]]:
        # Padding is on the right, and not among the encoding's tokens.
        best, classes = functional.softmax(scores[: len(encoding.ids)].float(), dim=1).max(dim=1)
        names = self.mapping or {}
        found = []
        for index, (score, number) in enumerate(zip(best.tolist(), classes.tolist(), strict=True)):
            label = names.get(str(number), str(number))
            if encoding.special_tokens_mask[index] or label in self.ignored:
                continue
            start, end = encoding.offsets[index]
            word = encoding.tokens[index]
            found.append({"entity": label, "score": score, "index": index, "word": word, "start": start, "end": end})
        return found
