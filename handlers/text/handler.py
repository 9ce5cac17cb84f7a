"""The base of the handlers for text: texts in, tokens for the model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from handlers.base import BaseHandler
from handlers.batch.inputs import require
from handlers.device import to_device
from handlers.errors import BadInputError, LoadError
from handlers.loading.signature import read_signature
from handlers.text import normalization
from handlers.text.tokenizer import INPUTS, TextTokenizer
from handlers.text.torchserve_methods import StockTextMethods
from handlers.text.vocabulary import Vocabulary, read_vocabulary

if TYPE_CHECKING:
    from collections.abc import Sequence

    from handlers.batch.request import RequestContext
    from handlers.context import Context


@dataclass(frozen=True, eq=False)
class Texts:
    """The texts of a batch as a model takes them.

    `inputs` are the model's arguments in its order. `encodings` has the result of `encode` for each text. `mask`,
    `[batch, tokens]`, is 1 where a token is not padding; None with a vocabulary, which pads nothing.
    """

    inputs: tuple[torch.Tensor, ...]
    encodings: Sequence[Any]
    mask: torch.Tensor | None = None


class TextHandler(StockTextMethods, BaseHandler):
    """A handler that reads the text of each request and makes tokens of it; a subclass answers in `postprocess`.

    With a `tokenizer.json` in the archive (and the package tokenizers on the server) the model is called with
    `input_ids` and `attention_mask`, int64 `[batch, tokens]`, in this order. `handler: {inputs: [...]}` of
    model-config.yaml, or the manifest's record, sets other inputs or another order, such as `token_type_ids` too.

    With a `source_vocab.pt` the model is called as TorchServe calls it: with the indices of all words and n-grams of
    the batch, int64 `[words]`, and the offset at which each text begins, `[batch]`; `nn.EmbeddingBag` takes both.

    `ngrams` is the longest run of words that the vocabulary holds. `max_length` is the number of tokens at which the
    tokenizer truncates a text (`handler: {max_length: 128}` in model-config.yaml does the same). `special_tokens` says
    whether the tokenizer adds its own tokens to those of the text, such as `<s>` (`handler: {special_tokens: false}`).
    """

    ngrams: int = 2
    max_length: int | None = None
    special_tokens: bool = True

    _first_half = (*BaseHandler._first_half, "encode", "words")

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer: TextTokenizer | None = None
        self.source_vocab: Vocabulary | None = None
        self.input_names: tuple[str, ...] = ("input_ids", "attention_mask")

    def initialize(self, context: Context) -> None:
        """Load the model, and the tokenizer or the vocabulary.

        Raises:
            LoadError: one of them cannot be loaded, or a setting of the section `handler` is wrong.
        """
        super().initialize(context)
        folder = Path(str(context.system_properties.get("model_dir") or ""))
        if (folder / "tokenizer.json").is_file():
            self.tokenizer = TextTokenizer(
                folder / "tokenizer.json", self._max_length(), special_tokens=self._special_tokens()
            )
            self.input_names = self._input_names()
            return
        path = Path(self.get_source_vocab_path(context))
        self.source_vocab = read_vocabulary(path, weights_only=self._weights_only())

    def get_source_vocab_path(self, ctx: Context) -> str:
        """Return the path of the vocabulary. Runs in `initialize` if the archive holds no tokenizer.

        Default: `source_vocab.pt` in the archive, or the file that its manifest names.

        Raises:
            LoadError: the archive holds no vocabulary.
        """
        entry = (self.manifest or {}).get("model") or {}
        folder = Path(str(ctx.system_properties.get("model_dir") or ""))
        path = folder / Path(str(entry.get("sourceVocab") or "source_vocab.pt")).name
        if not path.is_file():
            raise LoadError(
                "the archive holds neither a tokenizer.json nor a source_vocab.pt",
                hint="add one of them with --extra-files",
            )
        return str(path)

    def _max_length(self) -> int | None:
        given = self._handler_config().get("max_length", self.max_length)
        if given is not None and (type(given) is not int or given < 1):
            raise LoadError(f"handler.max_length in model-config.yaml is {given!r}, and not a number of tokens")
        return given

    def _special_tokens(self) -> bool:
        given = self._handler_config().get("special_tokens", self.special_tokens)
        if not isinstance(given, bool):
            raise LoadError(f"handler.special_tokens in model-config.yaml is {given!r}, and not true or false")
        return given

    def _input_names(self) -> tuple[str, ...]:
        given = self._handler_config().get("inputs")
        if given is None:
            recorded = tuple(one.name for one in read_signature(self.manifest).inputs)
            return recorded if recorded and set(recorded) <= INPUTS.keys() else self.input_names
        if not isinstance(given, list) or not given or not all(name in INPUTS for name in given):
            raise LoadError(
                f"handler.inputs in model-config.yaml is {given!r}",
                hint=f"list the model's inputs in its order, out of {', '.join(INPUTS)}",
            )
        return tuple(given)

    def preprocess_one(self, data: Any, context: RequestContext) -> Any:
        """Read the text of a request (bytes, str, or the key `text` of an object), and encode it."""
        require(data, context.parameters, normalization.WANTED)
        return self.encode(normalization.read_text(data))

    def encode(self, content: str) -> Any:
        """Make tokens of a text: the tokenizer's `Encoding`, or a list of words. Runs in `preprocess_one`.

        Raises:
            BadInputError: the text holds no token, or no known word.
        """
        if self.tokenizer is not None:
            encoding = self.tokenizer.encode(content)
            if not encoding.ids:
                raise BadInputError("the text holds no token")
            return encoding
        found = self.words(content)
        if not self._numbers(found):
            raise BadInputError("no word of the text is in the model's vocabulary")
        return found

    def words(self, content: str) -> list[str]:
        """Split a text into the words that a vocabulary holds. Default: as TorchServe's text classifier does."""
        return normalization.words(content)

    def collate(self, items: list[Any]) -> Any:
        """Combine the encoded texts of a batch to `Texts`."""
        if self.tokenizer is not None:
            *inputs, mask = self.tokenizer.tensors(items, (*self.input_names, "attention_mask"))
            return Texts(tuple(inputs), items, mask)
        return self._bags(items)

    def _bags(self, items: list[list[str]]) -> Texts:
        numbers = [self._numbers(item) for item in items]
        ends = torch.tensor([0, *map(len, numbers)]).cumsum(0)
        joined = torch.tensor([one for row in numbers for one in row], dtype=torch.int64)
        return Texts((joined, ends[:-1]), items)

    def _numbers(self, found: Sequence[str]) -> list[int]:
        if self.source_vocab is None:
            raise RuntimeError("there is no vocabulary: initialize loaded none")
        return self.source_vocab.numbers(normalization.ngrams(found, self.ngrams))

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the model on `Texts`; anything else, which an overridden `preprocess` may return, goes to it as it is."""
        if not isinstance(data, Texts):
            return super().inference(data, *args, **kwargs)
        first, *rest = data.inputs
        return super().inference(first, *(to_device(one, self.device) for one in rest), *args, **kwargs)


def tensor_of(output: Any, *names: str) -> torch.Tensor:
    """Return the tensor of a model's output: alone, the first of a tuple, or the first of these names that it has.

    Raises:
        TypeError: the output has no such tensor.
    """
    if isinstance(output, torch.Tensor):
        return output
    if isinstance(output, Mapping):
        found = next((output[name] for name in names if name in output), None)
    else:
        found = next((getattr(output, name) for name in names if hasattr(output, name)), None)
        if found is None and isinstance(output, tuple | list) and output:
            found = output[0]
    if not isinstance(found, torch.Tensor):
        raise TypeError(f"the model gives {type(output).__name__} without a tensor {' or '.join(names)}")
    return found
