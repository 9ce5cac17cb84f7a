"""The handler for models that classify texts."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from handlers.errors import BadInputError
from handlers.loading.labels import class_index, map_class_to_label
from handlers.text.handler import TextHandler, Texts, tensor_of

_OCCLUDED_AT_ONCE = 32


class TextClassifier(TextHandler):
    """A handler that classifies texts: a text in, all labels with their probabilities out.

    The model takes what `TextHandler` says and returns `[batch, classes]` before softmax, alone or as `logits`.

    A request is a text:

    `curl localhost:8080/predictions/news -H "Content-Type: text/plain" -d "Rain stops the final"`

    The reply names every class:

    `{"World": 0.01, "Sports": 0.96, "Business": 0.02, "Science": 0.01}`
    """

    names_classes = True

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the model on `Texts`, or on the pair that a `preprocess` for TorchServe returns: indices and words."""
        if isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], torch.Tensor):
            return super().inference(data[0], torch.zeros(1, dtype=torch.int64, device=self.device))
        return super().inference(data, *args, **kwargs)

    def postprocess(self, data: Any) -> list[Any]:
        """Turn the model's output into a dict of label to probability for each request."""
        probabilities = functional.softmax(tensor_of(data, "logits").float(), dim=1)
        return map_class_to_label(probabilities.tolist(), self.mapping)

    def get_insights(self, tensor_data: Any, raw_data: Any, target: Any = 0) -> list[Any]:  # noqa: ARG002
        """Return how much each word adds to the probability of a class: the drop if the word is left out.

        Return `{"words": [...], "importances": [...]}`, both of one length. With a tokenizer the words are tokens. To
        leave one out, the model does not attend to it, or sees padding if it takes no mask.

        Raises:
            BadInputError: the model has no class `target`.
        """
        (item,) = tensor_data.encodings
        words = list(item.tokens if self.tokenizer is not None else item)
        whole = self._probabilities(tensor_data)[0]
        index = class_index(target)
        if not 0 <= index < len(whole):
            raise BadInputError(f"the target {index} is no class: the model has {len(whole)}")
        importances: list[float] = []
        for begin in range(0, len(words), _OCCLUDED_AT_ONCE):
            places = range(begin, min(begin + _OCCLUDED_AT_ONCE, len(words)))
            found = self._probabilities(self._without(tensor_data, item, places))[:, index]
            importances += (whole[index] - found).tolist()
        return [{"words": words, "importances": importances}]

    def _probabilities(self, texts: Texts) -> torch.Tensor:
        return functional.softmax(tensor_of(self.inference(texts), "logits").float(), dim=1)

    def _without(self, texts: Texts, item: Any, places: range) -> Texts:
        """Return the text once for each place, without the word there."""
        if self.tokenizer is None:
            return self._bags([[*item[:place], *item[place + 1 :]] for place in places])
        inputs = {name: one.repeat(len(places), 1) for name, one in zip(self.input_names, texts.inputs, strict=True)}
        hidden, value = ("attention_mask", 0) if "attention_mask" in inputs else ("input_ids", self.tokenizer.pad)
        inputs[hidden][torch.arange(len(places)), torch.tensor(places)] = value
        return Texts(tuple(inputs.values()), [item] * len(places))
