"""One text that is written on: its tokens, how the next one is chosen, and the text that they make."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import torch

from handlers.errors import BadInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

LENGTH: Final = "length"
ENDED: Final = "eos_token"
STOPPED: Final = "stop_sequence"
TOO_EXTREME: Final = "the parameters leave no token that could be drawn: their numbers are too extreme"
#: What is raised of numbers that nobody can reckon with: by torch's distributions, of scores that are none any more.
UNRECKONABLE: Final = (ArithmeticError, ValueError)
_INCOMPLETE: Final = "\ufffd"  # what a tokenizer returns for the first bytes of a character
_LONGEST_CHARACTER: Final = 4
#: The processor that leaves few tokens, and those that look at the shares of all that are left, some by sorting them:
#: among tens of thousands that takes as long as a small model.
_FEW: Final = "TopKLogitsWarper"
_SORTING: Final = frozenset({"TopPLogitsWarper", "TypicalLogitsWarper"})
_BY_SHARE: Final = _SORTING | {"MinPLogitsWarper", "EpsilonLogitsWarper", "EtaLogitsWarper", "LogitNormalization"}
#: Tokens of the prompt that are decoded with those that follow: they decide whether a blank comes first.
_BEFORE: Final = 5


class Text:
    """The text of tokens as they come: in pieces that are whole characters, and end before a stop text.

    Attributes:
        text: of all tokens, without what may be the beginning of a stop text.
        stopped: whether a stop text has come.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int], stops: Sequence[str]) -> None:
        self.text = ""
        self.stopped = False
        self._tokenizer = tokenizer
        self._ids = list(prompt[-_BEFORE:])
        self._begin, self._read = 0, len(self._ids)
        self._stops = stops
        self._held = ""

    def add(self, ids: Sequence[int], *, last: bool) -> str:
        """Add tokens; return the further piece of the text, with all that was held back if they are the last."""
        self._ids += ids
        before, whole = self._decode(self._ids[self._begin : self._read]), self._decode(self._ids[self._begin :])
        open_end = whole.endswith(_INCOMPLETE) and len(self._ids) - self._read < _LONGEST_CHARACTER
        if not (open_end and not last):
            self._held += whole[len(before) :]
            self._begin, self._read = self._read, len(self._ids)
        piece = self._released(last=last)
        self.text += piece
        return piece

    def after(self, tokens: Iterable[int]) -> list[str]:
        """Return what each of some tokens would add that could come next."""
        known = self._ids[self._begin :]
        begin = len(self._tokenizer.decode(known))
        return [str(self._tokenizer.decode([*known, token]))[begin:] for token in tokens]

    def _decode(self, ids: Sequence[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True)) if ids else ""

    def _released(self, *, last: bool) -> str:
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            piece, self._held = self._held[: min(found)], ""
            return piece
        kept = 0 if last else max((_begun(self._held, stop) for stop in self._stops), default=0)
        at = len(self._held) - kept
        piece, self._held = self._held[:at], self._held[at:]
        return piece


def _begun(text: str, stop: str) -> int:
    """Return how many characters at the end of a text may be the beginning of a stop text."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


@dataclass(eq=False)
class Chooser:
    """How the next token is chosen: by the scores that `processors` of transformers leave, the best or a drawn one.

    The generator is the text's own, so what is drawn depends on no other text. The penalties are those of OpenAI, on
    tokens that were written.
    """

    processors: Any = None
    generator: torch.Generator | None = None
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0

    @property
    def takes_best(self) -> bool:
        """Whether it is the token with the best score, whatever came before."""
        penalized = self.frequency_penalty or self.presence_penalty
        return not self.processors and self.generator is None and not penalized

    def choose(self, ids: Sequence[int], new: Sequence[int], scores: torch.Tensor) -> int:
        """Choose the token that follows `ids`, of which `new` were written, by its scores `[words]`.

        Raises:
            BadInputError: the parameters leave none that can be drawn.
        """
        scores = scores[None]
        if new and (self.frequency_penalty or self.presence_penalty):
            counts = Counter(new)
            used = torch.tensor([*counts], device=scores.device)
            often = torch.tensor([*counts.values()], device=scores.device, dtype=scores.dtype)
            scores = scores.clone()
            scores[0, used] -= self.frequency_penalty * often + self.presence_penalty
        if self.processors:
            try:
                scores = self._processed(torch.tensor([ids], device=scores.device), scores)
            except UNRECKONABLE as error:
                raise BadInputError(TOO_EXTREME) from error
        if self.generator is None:
            return int(scores.argmax())
        shares = scores.softmax(dim=-1)
        if not shares.isfinite().all():  # on a GPU `multinomial` would end all work of the process
            raise BadInputError(TOO_EXTREME)
        return int(torch.multinomial(shares, 1, generator=self.generator))

    def _processed(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores that the processors leave; those that sort see only what the one before them has left."""
        names = [type(one).__name__ for one in self.processors]
        some = names.index(_FEW) + 1 if _FEW in names else len(names)
        if not _SORTING.intersection(names[some:]) or not _BY_SHARE.issuperset(names[some:]):
            return cast("torch.Tensor", self.processors(ids, scores))
        for one in self.processors[:some]:
            scores = one(ids, scores)
        left = (~scores[0].isneginf()).nonzero()[:, 0]
        few = scores[:, left]
        for one in self.processors[some:] if len(left) else ():  # some cannot take none at all, on a GPU fatally
            few = one(ids, few)
        return torch.full_like(scores, -inf).index_copy_(1, left, few)


#: Returns the logarithm of a token's probability, and as many others as asked for, by their numbers.
Likely: TypeAlias = Callable[[int, int], tuple[float, Sequence[tuple[int, float]]]]


def likely_by(scores: torch.Tensor, token: int, top: int) -> tuple[float, Sequence[tuple[int, float]]]:
    """Return the logarithms of probabilities, by the scores `[words]`."""
    logs = scores.log_softmax(dim=-1)
    if not top:
        return float(logs[token]), ()
    values, numbers = logs.topk(min(top, len(logs)))
    return float(logs[token]), [*zip(numbers.tolist(), values.tolist(), strict=True)]


@dataclass(eq=False)
class Written:
    """One text that is written on.

    Attributes:
        prompt: tokens that are given.
        most: tokens that are written at most.
        text: of those that are written.
        chooser: of the next one.
        ends: tokens that end a text.
        alone: arguments of `generate`, if it cannot be a row beside others.
        told: whether each token is told, with its probability, as in `tokens`; `top` more that were likely.
        eager: whether the text is made with every token.
        until: when it ends at the latest, on the monotonic clock.
        new: tokens that are written.
        finish: why it has ended; None until then.
        error: why it cannot be written on.
    """

    prompt: list[int]
    most: int
    text: Text
    chooser: Chooser = field(default_factory=Chooser)
    ends: frozenset[int] = frozenset()
    special: frozenset[int] = frozenset()
    alone: Mapping[str, Any] | None = None
    seed: int | None = None
    told: bool = False
    top: int = 0
    eager: bool = False
    until: float = inf
    new: list[int] = field(default_factory=list)
    tokens: list[dict[str, Any]] = field(default_factory=list)
    pieces: list[str] = field(default_factory=list)
    finish: str | None = None
    error: Exception | None = None

    @property
    def over(self) -> bool:
        """Whether no token follows."""
        return self.finish is not None or self.error is not None

    @property
    def columns(self) -> int:
        """Tokens that are remembered at most."""
        return len(self.prompt) + self.most

    def add(self, token: int, likely: Likely, finish: str | None = None) -> None:
        """Add the token that follows.

        Args:
            token: by its number.
            likely: asked for probabilities if they are told.
            finish: why it is the last one, if who chose it says so.
        """
        self.new.append(token)
        if finish is not None or token in self.ends:
            self.finish = finish or ENDED
        elif len(self.new) >= self.most or time.monotonic() >= self.until:
            self.finish = LENGTH
        if not self.eager:
            if self.over:
                self._end()
            return
        found: dict[str, Any] = {"id": token}
        if self.told:
            logprob, others = likely(token, self.top)
            found |= {"text": "", "logprob": logprob, "special": token in self.special}
            if self.top:
                texts = self.text.after(one for one, _ in others)
                top = zip(others, texts, strict=True)
                found["top"] = [{"id": one, "text": text, "logprob": log} for (one, log), text in top]
        found["text"] = self.text.add([] if self.finish == ENDED else [token], last=self.over)
        if self.text.stopped:
            self.finish = STOPPED
        self.pieces.append(found["text"])
        if self.told:
            self.tokens.append(found)

    def take(self, tokens: Sequence[int]) -> None:
        """Take all tokens at once, of a text that was written alone."""
        self.new = list(tokens)
        if self.new and self.new[-1] in self.ends:
            self.finish = ENDED
        else:
            self.finish = LENGTH
        self._end()

    def _end(self) -> None:
        shown = self.new[:-1] if self.finish == ENDED else self.new
        self.pieces.append(self.text.add(shown, last=True))
        if self.text.stopped:
            self.finish = STOPPED
