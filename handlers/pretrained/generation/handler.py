"""The handler that writes texts on, many at once; each may come token by token."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Final

import torch

from handlers.batch import isolation
from handlers.errors import BadInputError, RequestError
from handlers.optimization.optimized_model import original
from handlers.pretrained.asking import Parameter
from handlers.pretrained.generation import cache, reading, replies
from handlers.pretrained.generation.parameters import (
    CONFIG,
    PARAMETERS,
    STATED,
    draws,
    ends_of,
    is_coldest,
    seed_of,
    stops_of,
)
from handlers.pretrained.generation.replies import Generation
from handlers.pretrained.generation.sequence import Chooser, Text, Written
from handlers.pretrained.generation.writer import Writer
from handlers.pretrained.handler import PretrainedTextHandler
from handlers.streaming import NOTHING_YET, can_stream, send_parts

if TYPE_CHECKING:
    from handlers.batch.request import RequestContext
    from handlers.context import Context

logger = logging.getLogger(__name__)

_RESERVE_S: Final = 1.0  # to answer before the frontend stops waiting
#: What texts of several beams do not have.
_ONE_BEAM: Final = (
    "num_return_sequences",
    "logprobs",
    "top_n_tokens",
    "frequency_penalty",
    "presence_penalty",
    "stop",
)


class PretrainedTextGenerator(PretrainedTextHandler):
    """A handler that writes texts on: a text or a chat in, what follows out, at once or token by token.

    A request is `{"inputs": "...", "parameters": {...}, "stream": false}`, with `messages` in place of `inputs` for a
    chat, or the text alone. The reply is `[{"generated_text": "..."}]`, or server-sent events. docs/pretrained.md has
    all of it.

    With `continuousBatching: true` in model-config.yaml, which a build writes, requests join those that are being
    written between two tokens, and one whose client has gone leaves its place. Otherwise those of a batch are written
    together.

    `handler: {most_new_tokens: 1024, most_sequences: 32, most_tokens: 65536}` bounds what a request may ask for, how
    many texts are written at once, and the tokens that are remembered for them.
    """

    task = "text-generation"
    wanted = reading.WANTED
    parameters: ClassVar[Mapping[str, Parameter]] = PARAMETERS
    most_beams: int = 16
    isolate_errors = False
    pipelined = False

    def __init__(self) -> None:
        super().__init__()
        self.limits = dict(reading.LIMITS)
        self.writer: Any = None
        self._known: dict[str | None, Generation] = {}
        self._special: frozenset[int] = frozenset()

    # ---- loading -------------------------------------------------------------------------------------------------

    def initialize(self, context: Context) -> None:
        """Load the model and the tokenizer.

        Raises:
            LoadError: they cannot be loaded, a setting of the section `handler` is wrong, or the model keeps more than
                keys and values.
        """
        super().initialize(context)
        self.model.config.use_cache = True
        self.limits = reading.limits_of(self._handler_config())
        most_tokens = self.limits["most_tokens"]
        self.longest = most_tokens if self.longest is None else min(self.longest, most_tokens)
        model = original(self.model)
        cache.check(model)
        self._special = frozenset(self.tokenizer.all_special_ids)
        self.writer = Writer(
            model,
            model.device,
            pad=self.tokenizer.pad_token_id or 0,
            most_rows=self.limits["most_sequences"],
            most_tokens=most_tokens,
        )

    @property
    def continuous(self) -> bool:
        """Whether each call is one step of the requests that it names: a worker's, with continuous batching."""
        has_worker = getattr(self.context, "cl_socket", None) is not None
        return has_worker and self.model_yaml_config.get("continuousBatching") is True

    # ---- a request -----------------------------------------------------------------------------------------------

    def preprocess_one(self, data: Any, context: RequestContext) -> Any:
        """Read a request; one that is being written is known by its id.

        Raises:
            BadInputError: it asks for nothing, or for what the model cannot do.
            RequestError: it was begun by another worker.
        """
        if not self.continuous:
            return self.begin(data, context)
        known = self._known.get(context.request_id)
        if known is None:
            if not context.parameters:
                raise RequestError("the worker that wrote this text has ended", status=503)
            known = self._known[context.request_id] = self.begin(data, context)
        if known.stream is not None:
            context.set_content_type(known.stream)
        return known

    def begin(self, data: Any, context: RequestContext) -> Generation:
        """Read a request, and put its texts into the queue.

        Raises:
            BadInputError: it asks for nothing, or for what the model cannot do.
        """
        with self.tokenizing:
            wanted = reading.read(data, context.parameters, self.defaults)
            stream = replies.stream_of(wanted.stream, context.headers, is_grpc=context.is_grpc)
            given = wanted.parameters
            prompts = reading.prompts_of(self.tokenizer, wanted, self.longest)
            until = inf if self.continuous or stream or context.deadline is None else context.deadline - _RESERVE_S
            numbers = range(given.get("num_return_sequences", 1))
            config = self._config(given)
            texts = [
                [self.write(prompt, given, config, number, until, stream) for number in numbers] for prompt in prompts
            ]
        if stream is not None:
            context.set_content_type(stream)
        found = replies.generation(texts, wanted, stream)
        self.writer.add(found.all)
        return found

    def write(
        self, prompt: list[int], given: Mapping[str, Any], config: Any, number: int, until: float, stream: str | None
    ) -> Written:
        """Return a text that is to be written on, with what a request sets, and the GenerationConfig made of that.

        Raises:
            BadInputError: the request asks for what the model cannot do.
        """
        # 20 is what transformers takes where nothing is stated.
        total = config.max_length if config.max_length not in (None, 20) else len(prompt) + STATED
        stated = config.max_new_tokens or max(1, total - len(prompt))
        most = reading.most(prompt, given, self.longest, self.limits, stated)
        drawn = bool(config.do_sample)
        seed = seed_of(given, number) if drawn else None
        alone = self._alone(given, most, drawn=drawn, stream=stream)
        chooser = Chooser()
        if alone is None:
            chooser = Chooser(
                self.model._get_logits_processor(config, input_ids_seq_length=len(prompt), device=self.device),
                torch.Generator(self.device).manual_seed(seed) if seed is not None else None,
                given.get("frequency_penalty", 0.0),
                given.get("presence_penalty", 0.0),
            )
        stops = stops_of(given)
        told = replies.tells_tokens(given, stream)
        return Written(
            prompt,
            most,
            Text(self.tokenizer, prompt, stops),
            chooser,
            ends_of(config),
            self._special,
            alone,
            seed,
            told,
            given.get("top_n_tokens", 0),
            bool(stops or told or stream),
            min(until, time.monotonic() + given.get("max_time", inf)),
        )

    def _config(self, given: Mapping[str, Any]) -> Any:
        """Return the GenerationConfig of a request: what it does not set is the model's, or greedy."""
        set_here = {name: given[name] for name in CONFIG if name in given}
        if is_coldest(set_here):
            del set_here["temperature"]
        if (drawn := draws(given)) is not None:
            set_here["do_sample"] = drawn
        if "sequence_bias" in set_here:
            set_here["sequence_bias"] = {tuple(ids): float(bias) for ids, bias in set_here["sequence_bias"]}
        for names in ("suppress_tokens", "begin_suppress_tokens"):
            self._require_known(names, set_here.get(names, ()))
        self._require_known("bad_words_ids", [one for ids in set_here.get("bad_words_ids", ()) for one in ids])
        self._require_known("sequence_bias", [one for ids in set_here.get("sequence_bias", ()) for one in ids])
        try:
            config, _ = self.model._prepare_generation_config(None, **set_here)
            config.validate()
        except (TypeError, ValueError) as error:
            raise BadInputError(f"the parameters do not go together: {str(error)[:300]}") from error
        self.model._prepare_special_tokens(config, True, device=self.device)
        return config

    def _require_known(self, name: str, tokens: Sequence[int]) -> None:
        size = self.model.config.get_text_config().vocab_size
        for token in tokens:
            if token >= size:
                raise BadInputError(f"{name} has the token {token}, and the model has {size}")

    def _alone(self, given: Mapping[str, Any], most: int, *, drawn: bool, stream: str | None) -> dict[str, Any] | None:
        """Return the arguments of `generate` for a text of several beams.

        Raises:
            BadInputError: it is to have what only texts of one beam have.
        """
        beams = given.get("num_beams", 1)
        if beams == 1:
            return None
        if stream:
            raise BadInputError("num_beams does not go together with stream: leave one of them out")
        if beams > self.most_beams:
            raise BadInputError(f"num_beams is {beams}: at most {self.most_beams} are taken")
        for name in _ONE_BEAM:
            if given.get(name) and given[name] != 1:
                raise BadInputError(f"num_beams does not go together with {name}: leave one of them out")
        left_out = {"max_length", *(["temperature"] if is_coldest(given) else [])}
        found = {name: given[name] for name in CONFIG if name in given and name not in left_out}
        return {**found, "do_sample": drawn, "max_new_tokens": most}

    # ---- a batch -------------------------------------------------------------------------------------------------

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Write the texts of all requests: the next token with continuous batching, otherwise all that follows."""
        if not isinstance(data, list) or not all(isinstance(one, Generation) for one in data):
            return super().inference(data, *args, **kwargs)
        if self.continuous:
            self._leave(data)
            self.writer.step()
            return data
        streams = can_stream(self.context, len(data))
        try:
            while not all(one.over for one in data):
                self.writer.step()
                if streams:
                    parts = {index: one.part() for index, one in enumerate(data) if one.stream and not one.over}
                    self._send({index: part for index, part in parts.items() if part}, data)
        finally:
            self.writer.drop(text for one in data for text in one.all)
        return data

    def _send(self, parts: dict[int, str], data: Sequence[Generation]) -> None:
        if parts:
            send_parts(self.context, parts)
        for index in parts:
            data[index].begun = True

    def _leave(self, staying: Sequence[Generation]) -> None:
        """Forget the requests that the frontend names no more: their clients have gone."""
        here = set(map(id, staying))
        for name, one in [*self._known.items()]:
            if id(one) not in here:
                self.writer.drop(one.all)
                del self._known[name]

    def postprocess_one(self, output: Generation, context: RequestContext) -> Any:  # noqa: ARG002
        """Return the reply, its next part, or nothing yet."""
        if output.error is not None:
            if not (output.begun and output.stream):
                raise output.error
            logger.error("The text of a request that is streamed cannot be written on", exc_info=output.error)
            return replies.failure(output.error) if output.stream == replies.EVENTS else ""
        if output.stream is not None:
            return output.part() or ("" if output.over else NOTHING_YET)
        return output.whole() if output.over else NOTHING_YET

    def settle(self, items: list[Any]) -> list[Any]:
        """Return the replies to one step of continuous batching, and tell the worker which of them end.

        TorchServe asks the functions in `stopping_criteria`, by the place of the request: True ends a reply in parts,
        False goes on with it, None is for one at once.
        """
        if not self.continuous:
            return super().settle(items)
        context: Any = self.context
        stops: list[bool | None] = []
        found = []
        for index, item in enumerate(items):
            name = context.request_ids.get(index)
            known = self._known.get(name)
            failed = isinstance(item, isolation.Failed)
            found.append(isolation.error_item(item.error, context, index) if failed else item)
            if known is None or failed or known.over:
                stops.append(True if known is not None and known.begun else None)
                if known is not None:
                    self.writer.drop(known.all)
                    del self._known[name]
            else:
                known.begun = True
                stops.append(False)
        context.stopping_criteria = [lambda _, stop=stop: stop for stop in stops]
        return found

    def describe_handle(self) -> Any:
        """Describe the model: task, architecture, parameters with their defaults, and limits."""
        context: Any = self.context
        if context is not None:
            context.stopping_criteria = None  # of the step before, which TorchServe would ask
        found = super().describe_handle()
        found.pop("labels")
        return {**found, "limits": self.limits, "chat": bool(getattr(self.tokenizer, "chat_template", None))}
