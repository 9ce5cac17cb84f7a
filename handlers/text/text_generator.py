"""The handler for text generation: a text in, its continuation out, at once or token by token."""

from __future__ import annotations

import difflib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from handlers.batch.inputs import is_empty, require
from handlers.device import to_device
from handlers.errors import BadInputError, LoadError
from handlers.streaming import can_stream, send_parts
from handlers.text.handler import TextHandler, tensor_of
from handlers.text.normalization import WANTED, read_text
from handlers.text.tokenizer import padded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from handlers.batch.request import RequestContext
    from handlers.context import Context

_ENDS = ("<|endoftext|>", "</s>", "<eos>", "[SEP]", "<|im_end|>", "<|eot_id|>")
_OPTIONS = {"max_new_tokens": int, "temperature": float, "top_k": int, "seed": int, "stream": bool}
_PROMPTS = ("text", "prompt")
_RESERVE_S = 1.0  # to answer before the frontend stops waiting
_INCOMPLETE = "\ufffd"  # what a tokenizer returns for the first bytes of a character


@dataclass(eq=False)
class Generation:
    """One text that is being continued.

    `ids` are the tokens of the prompt and those that follow, `new` the latter alone. `finish` is "stop" when the model
    ended the text, "length" when `max_new_tokens` did, "time" when there was none left before `deadline`, None until
    then. `shown` is how much of `text` a client has received.
    """

    ids: list[int]
    max_new_tokens: int
    temperature: float = 0.0
    top_k: int | None = None
    generator: torch.Generator | None = None
    stream: bool = False
    deadline: float | None = None
    new: list[int] = field(default_factory=list)
    text: str = ""
    finish: str | None = None
    shown: int = 0


class TextGenerator(TextHandler):
    """A handler that continues texts, by sampling or with the most probable token each time.

    The archive holds a `tokenizer.json`. The model is causal: it takes `input_ids` and `attention_mask`, int64 `[batch,
    tokens]`, padded on the right, or other inputs as `TextHandler` says, and returns `[batch, tokens, words]` before
    softmax, alone or as `logits`. It runs over the whole text for every token; override `scores` for a model that
    caches what it has computed.

    A request is a text, or JSON with the key `text` (or `prompt`) and any of these: `max_new_tokens`; `temperature`, 0
    for the most probable token; `top_k`, how many tokens are sampled from; `seed`; `stream`. The reply is JSON:

    `{"text": " the final", "tokens": 2, "finish_reason": "stop"}`

    With `"stream": true` it is plain text, a chunk for each token.

    `max_new_tokens` is the number of tokens if a request sets none, `most_new_tokens` the largest number that it may
    set, and `max_length` the number of tokens of the model's context. A text ends at one of the usual tokens, such as
    `</s>`, or at one of `handler: {ends: [...]}` in model-config.yaml. Any other key of a request is an error;
    `more_options` names those that your own handler reads.
    """

    max_new_tokens: int = 64
    most_new_tokens: int = 1024
    more_options: tuple[str, ...] = ()
    # Its hooks for single requests isolate failures; running a batch again would send parts twice, and cost as much
    # again.
    isolate_errors = False

    _first_half = (*TextHandler._first_half, "_read")

    def __init__(self) -> None:
        super().__init__()
        self.window: int | None = None
        self.ends: frozenset[int] = frozenset()

    def initialize(self, context: Context) -> None:
        """Load the model and the tokenizer, and find the tokens that end a text.

        Raises:
            LoadError: one of them cannot be loaded, or `handler.ends` is wrong.
        """
        super().initialize(context)
        if self.tokenizer is None:
            raise LoadError("there is no tokenizer.json in the archive", hint="add it with --extra-files")
        self.window = self._window()
        self.tokenizer.tokenizer.no_truncation()  # it would cut off a prompt's end; the window drops its beginning
        given = self._handler_config().get("ends", list(_ENDS))
        if not isinstance(given, list):
            raise LoadError(f"handler.ends in model-config.yaml is {given!r}", hint="list the tokens that end a text")
        numbers = (self.tokenizer.tokenizer.token_to_id(str(name)) for name in given)
        self.ends = frozenset(number for number in numbers if number is not None)

    def _window(self) -> int | None:
        return super()._max_length()

    def _max_length(self) -> int | None:
        return None

    def preprocess_one(self, data: Any, context: RequestContext) -> Generation:
        """Read the prompt and the options of a request."""
        require(data, context.parameters, WANTED)
        options = data if isinstance(data, dict) else {}
        _check_names(options, (*_PROMPTS, *_OPTIONS, *self.more_options))
        prompt = options.get("prompt") if "text" not in options and "prompt" in options else data
        found = self._read(read_text(prompt), options)
        if found.stream and context.headers:  # gRPC, which has no headers, takes one reply
            context.set_content_type("text/plain; charset=utf-8")
        else:
            found.stream = False
            found.deadline = context.deadline  # each part of a stream restarts the timeout
        return found

    def _read(self, prompt: str, options: dict[str, Any]) -> Generation:
        values = {name: _option(options, name, kind) for name, kind in _OPTIONS.items()}
        count = self.max_new_tokens if values["max_new_tokens"] is None else values["max_new_tokens"]
        if not 1 <= count <= self.most_new_tokens:
            raise BadInputError(f"'max_new_tokens' is {count}: it may be 1 to {self.most_new_tokens}")
        temperature = values["temperature"] or 0.0
        if not 0 <= temperature <= 100:
            raise BadInputError(f"'temperature' is {temperature:g}: it may be 0 to 100")
        if values["top_k"] is not None and values["top_k"] < 1:
            raise BadInputError(f"'top_k' is {values['top_k']}: it must be 1 or more")
        generator = None
        if temperature:
            generator = torch.Generator()
            if values["seed"] is None:
                generator.seed()
            else:
                generator.manual_seed(values["seed"] % 2**63)
        ids = list(self.encode(prompt).ids)
        while ids and ids[-1] in self.ends:  # a tokenizer for classifiers ends each text
            ids.pop()
        if not ids:
            raise BadInputError("the text holds no token")
        return Generation(ids, count, temperature, values["top_k"], generator, bool(values["stream"]))

    def collate(self, items: list[Any]) -> Any:
        """Leave the texts of a batch a list: they grow."""
        return items

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Continue the texts of a batch until each is finished, and send the parts of those that are streamed."""
        if not (isinstance(data, list) and all(isinstance(one, Generation) for one in data)):
            return super().inference(data, *args, **kwargs)
        streams = can_stream(self.context, len(data))
        while open_ones := [(index, one) for index, one in enumerate(data) if one.finish is None]:
            begin = time.monotonic()
            rows = self.scores([one.ids[-self.window :] if self.window else one.ids for _, one in open_ones])
            for (_, one), row in zip(open_ones, rows, strict=True):
                self._append(one, row, 2 * time.monotonic() - begin)
            if streams:
                self._send([(index, one) for index, one in open_ones if one.stream and one.finish is None])
        return data

    def scores(self, texts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Score the token that follows each text, `[batch, words]` before softmax. Runs for every token."""
        longest = max(map(len, texts))
        pad = 0 if self.tokenizer is None else self.tokenizer.pad
        inputs = {
            "input_ids": padded(texts, longest, pad),
            "attention_mask": padded([[1] * len(ids) for ids in texts], longest, 0),
            "token_type_ids": torch.zeros(len(texts), longest, dtype=torch.int64),
        }
        first, *rest = (inputs[name] for name in self.input_names)
        output = super().inference(first, *(to_device(one, self.device) for one in rest))
        last = torch.tensor([len(ids) - 1 for ids in texts])
        # What follows a token does not change its scores in a causal model, so padding on the right does no harm.
        return tensor_of(output, "logits")[torch.arange(len(texts)), last].float().cpu()

    def _append(self, one: Generation, scores: torch.Tensor, next_end: float) -> None:
        """Append the token that follows; `next_end` is when the one after it would be there."""
        token = _choose(scores, one)
        if token in self.ends:
            one.finish = "stop"
        else:
            one.ids.append(token)
            one.new.append(token)
            if len(one.new) == one.max_new_tokens:
                one.finish = "length"
            elif one.deadline is not None and next_end + _RESERVE_S > one.deadline:
                one.finish = "time"
        if one.stream or one.finish is not None:
            one.text = self._continuation(one)

    def _continuation(self, one: Generation) -> str:
        if self.tokenizer is None:
            return ""
        # Decoded with the last token of the prompt before it, which decides whether a blank comes first.
        decode = self.tokenizer.tokenizer.decode
        known = one.ids[len(one.ids) - len(one.new) - 1 : len(one.ids) - len(one.new)]
        before = decode(known, skip_special_tokens=True)
        return str(decode([*known, *one.new], skip_special_tokens=True)[len(before) :])

    def _send(self, streamed: list[tuple[int, Generation]]) -> None:
        parts = {}
        for index, one in streamed:
            part = one.text[one.shown :]
            if part and not part.endswith(_INCOMPLETE):
                parts[index] = part
                one.shown = len(one.text)
        if parts:
            send_parts(self.context, parts)

    def postprocess_one(self, output: Generation, context: RequestContext) -> Any:  # noqa: ARG002
        """Return the whole continuation, or the rest of one that was streamed."""
        if output.stream:
            return output.text[output.shown :]
        return {"text": output.text, "tokens": len(output.new), "finish_reason": output.finish}


def _choose(scores: torch.Tensor, one: Generation) -> int:
    if one.generator is None:
        return int(scores.argmax())
    scores = scores / one.temperature
    if one.top_k is not None and one.top_k < len(scores):
        scores = scores.masked_fill(scores < scores.topk(one.top_k).values[-1], float("-inf"))
    return int(torch.multinomial(functional.softmax(scores, dim=0), 1, generator=one.generator))


def _check_names(options: dict[str, Any], known: Sequence[str]) -> None:
    """Refuse a key that would be ignored silently, such as a misspelt one.

    Raises:
        BadInputError: it names the key.
    """
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            meant = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
            raise BadInputError(f"{str(name)!r:.40} is no option of a request: {meant}")


def _option(options: dict[str, Any], name: str, kind: type) -> Any:
    value = options.get(name)
    if value is None or is_empty(value):
        return None
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        wanted = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
        raise BadInputError(f"{name!r} is {value!r:.40}: it must be {wanted}")
    return value
