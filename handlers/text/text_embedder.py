"""The handler for models that embed a text as a vector."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from handlers.text.handler import TextHandler, Texts, tensor_of


class TextEmbedder(TextHandler):
    """A handler that embeds texts: a text in, a vector of length 1 out. The product of two vectors is their cosine.

    The model takes what `TextHandler` says and returns a vector for each token, `[batch, tokens, size]`, alone or as
    `last_hidden_state`: the reply is their mean, without padding. Or it returns one for each text, `[batch, size]`,
    alone or as `sentence_embedding`.

    A request is a text:

    `curl localhost:8080/predictions/embedder -H "Content-Type: text/plain" -d "Rain stops the final"`

    The reply is a list:

    `[0.6, -0.8]`

    `normalise = False` in a subclass, or on an instance, leaves the length of the vectors as it is.
    """

    normalise: bool = True

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the model on `Texts`, and return a vector for each text, `[batch, size]`.

        Raises:
            RuntimeError: the model's output has another shape.
        """
        output = super().inference(data, *args, **kwargs)
        if not isinstance(data, Texts):
            return output
        vectors = tensor_of(output, "sentence_embedding", "last_hidden_state").float()
        if vectors.dim() == 3 and data.mask is not None:
            weights = data.mask.to(vectors)[:, :, None]
            vectors = (vectors * weights).sum(dim=1) / weights.sum(dim=1)
        if vectors.dim() != 2:
            raise RuntimeError(f"the model gives vectors in the shape {list(vectors.shape)} for a batch of texts")
        return functional.normalize(vectors, dim=1) if self.normalise else vectors

    def postprocess(self, data: torch.Tensor) -> list[Any]:
        """Turn the vectors into lists of numbers."""
        vectors: list[Any] = data.tolist()
        return vectors
