"""The handler that has texts written by vLLM, where that is installed: the same requests, and the same replies."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from handlers.batch import isolation, request
from handlers.batch.inputs import row_value
from handlers.errors import LoadError, is_out_of_memory
from handlers.pretrained import loading
from handlers.pretrained.asking import Parameter
from handlers.pretrained.generation import reading, replies
from handlers.pretrained.generation.parameters import PARAMETERS, STATED, draws, ends_of, seed_of, stops_of
from handlers.pretrained.generation.replies import Generation
from handlers.pretrained.generation.sequence import ENDED, LENGTH, Text, Written
from handlers.pretrained.handler import PretrainedHandler
from handlers.streaming import can_stream, send_parts

if TYPE_CHECKING:
    from handlers.batch.request import RequestContext
    from handlers.context import Context

#: Names of vLLM's for parameters that it has.
_NAMES: Final = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "min_new_tokens": "min_tokens",
}
#: Parameters that are ours, whoever writes.
_OURS: Final = (
    *("max_new_tokens", "max_length", "do_sample", "num_return_sequences", "max_time", "seed", "stop", "truncate"),
    *("return_full_text", "details", "logprobs", "top_n_tokens"),
)


class PretrainedVllmGenerator(PretrainedHandler):
    """A handler that has a text or a chat written on by vLLM, in asynchronous mode, which a build writes.

    `handler: {engine: vllm}` in model-config.yaml chooses it, and `handler: {vllm_engine_config: {...}}` holds what
    vLLM's AsyncEngineArgs take. Requests and replies are those of `PretrainedTextGenerator`.
    """

    task = "text-generation"
    wanted = reading.WANTED
    parameters: ClassVar[Mapping[str, Parameter]] = {
        name: one for name, one in PARAMETERS.items() if name in _NAMES or name in _OURS
    }

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer: Any = None
        self.longest: int | None = None
        self.limits = dict(reading.LIMITS)
        self.library: Any = None
        self._ends: frozenset[int] = frozenset()
        self._special: frozenset[int] = frozenset()

    def _load_model(self, model_dir: str, entry: dict[str, Any]) -> None:  # noqa: ARG002
        """Start vLLM's engine, and load the tokenizer.

        Raises:
            LoadError: vLLM is not installed, or cannot load the model.
        """
        try:
            import vllm
        except ImportError as error:
            raise LoadError(
                f"handler.engine in model-config.yaml is vllm, which cannot be imported: {error}",
                hint="install vllm where the workers run, or leave engine out: then transformers writes",
            ) from error
        self.library = vllm
        self.saved = loading.find(self.manifest, Path(model_dir), self.task)
        section = self._handler_config()
        self.limits = reading.limits_of(section)
        given = section.get("vllm_engine_config") or {}
        if not isinstance(given, Mapping):
            raise LoadError(f"handler.vllm_engine_config in model-config.yaml is {given!r:.80}", hint="write a mapping")
        arguments = {"model": str(self.saved.folder), "trust_remote_code": self.saved.remote_code, **given}
        self.tokenizer = loading.load_tokenizer(self.saved)
        self.model = vllm.AsyncLLMEngine.from_engine_args(vllm.AsyncEngineArgs(**arguments))
        config = loading.transformers().GenerationConfig
        with contextlib.suppress(OSError):  # there is no generation_config.json
            self._ends = ends_of(config.from_pretrained(str(self.saved.folder)))
        if not self._ends and self.tokenizer.eos_token_id is not None:
            self._ends = frozenset([self.tokenizer.eos_token_id])
        self._special = frozenset(self.tokenizer.all_special_ids)

    def initialize(self, context: Context) -> None:
        """Start vLLM's engine.

        Raises:
            LoadError: it is not installed, or cannot load the model.
        """
        super().initialize(context)
        self.longest = self.model.model_config.max_model_len

    async def handle(self, data: Any, context: Context) -> list[Any]:  # type: ignore[override]
        """Answer one request."""
        self.context = context
        if self._is_describe():
            return [self.describe_handle()]
        (one,) = request.requests_of(context, data)
        try:
            return [await self._answer_one(row_value(data[0]), one, context)]
        except Exception as error:
            if is_out_of_memory(error):
                raise
            return [isolation.error_item(error, context, 0)]

    async def _answer_one(self, data: Any, one: RequestContext, context: Context) -> Any:
        generation, given = self._read(data, one)
        streams = generation.stream is not None and can_stream(context, 1)
        try:
            for group in generation.texts:
                async for _ in self._written(group, given, one.request_id):
                    if streams and not generation.over and (part := generation.part()):
                        send_parts(context, {0: part})
                        generation.begun = True
        except Exception as error:
            if not generation.begun or is_out_of_memory(error):
                raise
            return replies.failure(error) if generation.stream == replies.EVENTS else ""
        return generation.whole() if generation.stream is None else generation.part()

    def _read(self, data: Any, one: RequestContext) -> tuple[Generation, Mapping[str, Any]]:
        wanted = reading.read(data, one.parameters, self.defaults, self.parameters)
        stream = replies.stream_of(wanted.stream, one.headers, is_grpc=one.is_grpc)
        given = wanted.parameters
        prompts = reading.prompts_of(self.tokenizer, wanted, self.longest)
        numbers = range(given.get("num_return_sequences", 1))
        texts = [[self._text(prompt, given, number, stream) for number in numbers] for prompt in prompts]
        if stream is not None:
            one.set_content_type(stream)
        return replies.generation(texts, wanted, stream), given

    def _text(self, prompt: list[int], given: Mapping[str, Any], number: int, stream: str | None) -> Written:
        return Written(
            prompt,
            reading.most(prompt, given, self.longest, self.limits, STATED),
            Text(self.tokenizer, prompt, stops_of(given)),
            ends=self._ends,
            special=self._special,
            seed=seed_of(given, number) if draws(given) else None,
            told=replies.tells_tokens(given, stream),
            top=given.get("top_n_tokens", 0),
            eager=True,
            until=time.monotonic() + given.get("max_time", float("inf")),
        )

    async def _written(self, group: Sequence[Written], given: Mapping[str, Any], name: str | None) -> Any:
        """Have the texts of one input written, one after the other; yield after each token."""
        for number, one in enumerate(group):
            options = {theirs: given[ours] for ours, theirs in _NAMES.items() if ours in given}
            options.setdefault("temperature", 1.0)
            if one.seed is None:
                options["temperature"] = 0.0
            settings = self.library.SamplingParams(
                max_tokens=one.most,
                seed=one.seed,
                logprobs=max(1, one.top) if one.told else None,
                detokenize=False,
                **options,
            )
            prompt = {"prompt_token_ids": one.prompt}
            stream = self.model.generate(prompt, settings, f"{name}-{number}-{secrets.token_hex(4)}")
            async with contextlib.aclosing(stream) as outputs:
                async for output in outputs:
                    (found,) = output.outputs
                    last = len(found.token_ids) - 1 if output.finished else None
                    reason = ENDED if found.finish_reason == "stop" else LENGTH
                    for index in range(len(one.new), len(found.token_ids)):
                        if not one.over:
                            likely = _Likely(found.logprobs[index] if one.told else {})
                            one.add(found.token_ids[index], likely, reason if index == last else None)
                    yield one
                    if one.over:  # by a stop text, or its time: closing the stream has vLLM forget it
                        break
            if not one.over:
                raise RuntimeError("vLLM ended a text, and did not say so")


@dataclass(frozen=True)
class _Likely:
    """The logarithms of probabilities as vLLM tells them."""

    logs: Mapping[int, Any]

    def __call__(self, token: int, top: int) -> tuple[float, Sequence[tuple[int, float]]]:
        ordered = sorted(((one, float(log.logprob)) for one, log in self.logs.items()), key=lambda pair: -pair[1])
        return float(self.logs[token].logprob), ordered[:top]
