"""The handler that rewrites texts: summaries, translations, and whatever else a model learned."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from handlers.device import forked_numbers
from handlers.errors import BadInputError, LoadError
from handlers.pretrained import asking
from handlers.pretrained.asking import Parameter, Piece
from handlers.pretrained.generation.parameters import GENERATE, STATED
from handlers.pretrained.handler import PretrainedTextHandler

if TYPE_CHECKING:
    from handlers.context import Context

_KEYS = {"summarization": "summary_text", "translation": "translation_text"}


class PretrainedRewriter(PretrainedTextHandler):
    """A handler that rewrites texts: a text in, another one out.

    The reply is `[{"summary_text": "..."}]`, `[{"translation_text": "..."}]` or `[{"generated_text": "..."}]`, by the
    task. Parameters are those of `generate`, such as `max_new_tokens` and `num_beams`. What a request does not set is
    as generation_config.json says; where that does not limit the length, it is 256 new tokens. `handler:
    {most_new_tokens: 1024}` in model-config.yaml limits what a request may ask for, and so do 32 beams. `src_lang` and
    `tgt_lang` name the languages of a model that has several, and `prefix` is what is put before a text, such as
    "summarize: ".
    """

    task = "text2text-generation"
    most_beams: int = 32
    parameters: ClassVar[Mapping[str, Parameter]] = {
        "truncation": asking.flag(False),
        "prefix": Parameter(None, "a text", lambda value: isinstance(value, str)),
        "src_lang": asking.text(None),
        "tgt_lang": asking.text(None),
        **GENERATE,
    }

    def initialize(self, context: Context) -> None:
        """Load the model and the tokenizer.

        Raises:
            LoadError: they cannot be loaded, or a setting of the section `handler` is wrong.
        """
        super().initialize(context)
        self.model.config.use_cache = True
        given = self._handler_config().get("most_new_tokens", 1024)
        if not asking.count(None).fits(given):
            raise LoadError(f"handler.most_new_tokens in model-config.yaml is {given!r:.80}, and no number of tokens")
        self.most_new_tokens: int = given
        task = self.saved.task if self.saved else self.task
        self.key = _KEYS.get(task, "generated_text")
        params = getattr(self.model.config, "task_specific_params", None) or {}
        mine = params.get(task) if isinstance(params, Mapping) else None
        self.prefix = str((mine or {}).get("prefix") or getattr(self.model.config, "prefix", None) or "")

    def encode(self, value: Any, parameters: Mapping[str, Any]) -> list[Piece]:
        """Make tokens of a text, and of the parameters arguments of `generate`."""
        arguments = self._arguments(parameters)
        prefix = self.prefix if parameters["prefix"] is None else parameters["prefix"]
        text = prefix + asking.text_of(value)
        if parameters["src_lang"] is not None:
            self._language("src_lang", parameters["src_lang"])
        piece = self.piece(self._tokens(text, parameters))
        piece.features.pop("token_type_ids", None)
        piece.about = arguments
        return [piece]

    def _tokens(self, text: str, parameters: Mapping[str, Any]) -> Any:
        # A parameter of that name is the length of what is written, not of what is read.
        cut = {"truncation": parameters["truncation"]}
        language = parameters["src_lang"]
        if language is None:
            return self.tokens(cut, text)
        before = self.tokenizer.src_lang
        try:
            self.tokenizer.src_lang = language
            return self.tokens(cut, text)
        finally:
            self.tokenizer.src_lang = before

    def _arguments(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of `generate`, bounded.

        Raises:
            BadInputError: more is asked for than a request may have.
        """
        found = {name: parameters[name] for name in GENERATE if parameters[name] is not None}
        for name in ("max_new_tokens", "max_length", "min_new_tokens", "min_length"):
            if found.get(name, 0) > self.most_new_tokens:
                raise BadInputError(
                    f"{name} is {found[name]}: at most {self.most_new_tokens} are written for a request"
                )
        if found.get("num_beams", 0) > self.most_beams:
            raise BadInputError(f"num_beams is {found['num_beams']}: at most {self.most_beams} are taken")
        if not found.keys() & {"max_new_tokens", "max_length"}:
            config = getattr(self.model, "generation_config", None)
            stated = getattr(config, "max_new_tokens", None) or getattr(config, "max_length", None)
            # 20 is what transformers takes where nothing is stated.
            if stated in (None, 20):
                found["max_new_tokens"] = min(STATED, self.most_new_tokens)
        if parameters["tgt_lang"] is not None:
            found["forced_bos_token_id"] = self._language("tgt_lang", parameters["tgt_lang"])
        return found

    def _language(self, parameter: str, language: str) -> int:
        """Return the token of a language.

        Raises:
            BadInputError: the model has no such language.
        """
        codes = getattr(self.tokenizer, "lang_code_to_id", None) or {}
        by_name = getattr(self.tokenizer, "get_lang_id", None)
        number = codes.get(language)
        if number is None and by_name is not None and language in getattr(self.tokenizer, "lang_code_to_token", {}):
            number = by_name(language)
        if number is None:
            number = self.tokenizer.get_vocab().get(language)
        if number is None or not hasattr(self.tokenizer, "src_lang"):
            raise BadInputError(f"{parameter} is {language[:40]!r}, which is no language of the model")
        return int(number)

    def alike(self, piece: Piece) -> Hashable:
        """Return the arguments of `generate`; a piece that samples runs alone."""
        return id(piece) if piece.about.get("do_sample") else tuple(sorted(piece.about.items()))

    def run(self, pieces: list[Piece]) -> list[Any]:
        """Write a text for each piece."""
        arguments = dict(pieces[0].about)
        seed = arguments.pop("seed", None)
        features = {name: one.to(self.device) for name, one in self.join(pieces).items()}
        with torch.inference_mode(), forked_numbers(self.device, enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            written = self.model.generate(**features, **arguments)
        with self.tokenizing:
            texts: list[Any] = self.tokenizer.batch_decode(written, skip_special_tokens=True)
        return texts

    def answer(self, value: Any, pieces: list[Piece], parameters: Mapping[str, Any]) -> Any:  # noqa: ARG002
        """Return the text."""
        return [{self.key: pieces[0].output}]
