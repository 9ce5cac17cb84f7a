"""The writer of texts: a queue, and the texts that are written together, which others join between two tokens."""

from __future__ import annotations

import functools
import logging
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any

import torch

from handlers.errors import is_out_of_memory
from handlers.pretrained.generation.beside import Beside
from handlers.pretrained.generation.cache import Rows
from handlers.pretrained.generation.sequence import Written, likely_by

logger = logging.getLogger(__name__)

# Tokens of prompts that are read in one step, if there is more than one: meanwhile the other texts stand still.
_MOST_READ = 2048


class Writer:
    """Texts that are written together, in the order in which they came.

    One that cannot be a row beside others, as one of several beams, gets a token in each step, too; of those there is
    one at a time, and they wait in a queue of their own.

    Args:
        most_rows: texts that are written at once.
        most_tokens: tokens that are remembered at once: rows by the longest of them.
    """

    def __init__(self, model: Any, device: torch.device, *, pad: int, most_rows: int, most_tokens: int) -> None:
        self.most_rows = most_rows
        self.most_tokens = most_tokens
        self._model = model
        self._device = device
        self._pad = pad
        self._rows = Rows(model, device, pad)
        self._running: list[Written] = []
        self._waiting: deque[Written] = deque()
        self._waiting_alone: deque[Written] = deque()
        self._beside: Beside | None = None

    def __len__(self) -> int:
        return len(self._running) + len(self._waiting) + len(self._waiting_alone) + (self._beside is not None)

    def add(self, texts: Iterable[Written]) -> None:
        """Put texts at the end of the queue."""
        for one in texts:
            (self._waiting if one.alone is None else self._waiting_alone).append(one)

    def drop(self, texts: Iterable[Written]) -> None:
        """Forget texts for which nobody waits any more."""
        gone = set(map(id, texts))
        self._waiting = deque(one for one in self._waiting if id(one) not in gone)
        self._waiting_alone = deque(one for one in self._waiting_alone if id(one) not in gone)
        if self._beside is not None and id(self._beside.one) in gone:
            self._leave_beside()
        self._keep([one for one in self._running if id(one) not in gone])

    def step(self) -> None:
        """Write one token of each running text, and the first one of those that join.

        An error is that of the texts that it is about, and kept there.

        Raises:
            Exception: there is no memory left. All texts are forgotten.
        """
        try:
            if self._running:
                self._try(self._running, lambda: self._rows.step([one.new[-1] for one in self._running]))
            self._keep([one for one in self._running if not one.over])
            self._join()
            self._keep([one for one in self._running if not one.over])
            self._step_beside()
        except BaseException:
            self._running.clear()
            self._waiting.clear()
            self._waiting_alone.clear()
            self._leave_beside()
            self._rows = Rows(self._model, self._device, self._pad)
            raise

    def _step_beside(self) -> None:
        if self._beside is None and self._waiting_alone:
            self._beside = Beside(self._model, self._device, self._waiting_alone.popleft())
        if self._beside is not None and self._beside.step():
            self._beside = None

    def _leave_beside(self) -> None:
        if self._beside is not None:
            self._beside.leave()
            self._beside = None

    def _keep(self, texts: list[Written]) -> None:
        if len(texts) < len(self._running):
            staying = set(map(id, texts))
            rows = [row for row, one in enumerate(self._running) if id(one) in staying]
            self._running = texts
            self._rows.keep(rows)

    def _join(self) -> None:
        joining = self._next()
        if not joining:
            return
        before = len(self._running)
        self._running += joining
        if self._try(joining, lambda: self._rows.begin([one.prompt for one in joining])):
            return
        self._running = self._running[:before]
        if len(joining) > 1:  # one of them may be what the model cannot read
            for one in joining:
                one.error = None
                self._running.append(one)
                if not self._try([one], functools.partial(self._rows.begin, [one.prompt])):
                    self._running.pop()

    def _next(self) -> list[Written]:
        """Take those that are read together: in their order, of like length, as many as there is room for."""
        found: list[Written] = []
        columns = max((one.columns for one in self._running), default=0)
        beside = self._beside.tokens if self._beside is not None else 0
        while self._waiting:
            one = self._waiting[0]
            rows = len(self._running) + len(found) + 1
            columns = max(columns, one.columns)
            if rows > self.most_rows or (rows > 1 and rows * columns + beside > self.most_tokens):
                break
            if found:
                lengths = [len(other.prompt) for other in (*found, one)]
                if len(lengths) * max(lengths) > _MOST_READ or 2 * min(lengths) < max(lengths):
                    break
            found.append(self._waiting.popleft())
        return found

    def _try(self, texts: Sequence[Written], read: Any) -> bool:
        """Give texts their next token, by the scores that `read` returns; return whether it did."""
        try:
            scores = read()
        except Exception as error:
            if is_out_of_memory(error):
                raise
            for one in texts:
                one.error = error
            return False
        best = scores.argmax(dim=-1).tolist()
        for one, row, likeliest in zip(texts, scores, best, strict=True):
            try:
                chooser = one.chooser
                token = likeliest if chooser.takes_best else chooser.choose([*one.prompt, *one.new], one.new, row)
                one.add(token, functools.partial(likely_by, row))
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                one.error = error
        return True
