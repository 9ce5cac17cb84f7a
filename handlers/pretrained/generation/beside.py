"""A text that transformers' `generate` writes, such as one of several beams, a token at a time beside others."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from handlers.device import forked_numbers
from handlers.errors import BadInputError, is_out_of_memory
from handlers.pretrained.generation.sequence import TOO_EXTREME, UNRECKONABLE, Written


class Beside:
    """A call of `generate` that stands still after each token.

    It runs in a thread of its own, and only while `step` waits for it, so nothing happens at once. What it draws is by
    its own seed, whoever else draws meanwhile.

    Attributes:
        one: the text.
        tokens: that are remembered at most.
    """

    def __init__(self, model: Any, device: torch.device, one: Written) -> None:
        self.one = one
        self.tokens = (one.alone or {}).get("num_beams", 1) * one.columns
        self._model = model
        self._device = device
        self._go, self._stands = threading.Semaphore(0), threading.Semaphore(0)
        self._left = self._ended = False
        self._tokens: list[int] = []
        self._error: BaseException | None = None
        self._drawn: list[torch.Tensor] = []
        self._thread = threading.Thread(target=self._run, name="generate", daemon=True)
        self._thread.start()

    def step(self) -> bool:
        """Write one more token; return whether that was the last one. Then the text has all of them, or an error.

        Raises:
            Exception: there is no memory left.
        """
        with self._own_numbers():
            self._go.release()
            self._stands.acquire()
        if not self._ended:
            return False
        self._thread.join()
        try:
            if self._error is not None:
                raise self._error
            self.one.take(self._tokens)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            self.one.error = BadInputError(TOO_EXTREME) if isinstance(error, UNRECKONABLE) else error
        return True

    def leave(self) -> None:
        """Write no further token, and wait until the thread has ended."""
        self._left = True
        self._go.release()
        self._thread.join()

    @contextmanager
    def _own_numbers(self) -> Iterator[None]:
        """Draw on where this text has stopped drawing, and leave the numbers of others as they were."""
        on_gpu = self._device.type == "cuda"
        with forked_numbers(self._device, enabled=self.one.seed is not None):
            if self.one.seed is None:
                yield
                return
            if not self._drawn:
                torch.manual_seed(self.one.seed)
            else:
                torch.set_rng_state(self._drawn[0])
                if on_gpu:
                    torch.cuda.set_rng_state(self._drawn[1], self._device)
            yield
            self._drawn = [torch.get_rng_state(), *([torch.cuda.get_rng_state(self._device)] if on_gpu else [])]

    def _run(self) -> None:
        self._go.acquire()
        try:
            if not self._left:
                self._tokens = self._generate()
        except BaseException as error:
            self._error = error
        self._ended = True
        self._stands.release()

    def _generate(self) -> list[int]:
        prompt = self.one.prompt
        numbers = torch.tensor([prompt], device=self._device)
        guard = {"logits_processor": [_require_finite]} if self.one.seed is not None else {}
        with torch.inference_mode():
            found = self._model.generate(
                numbers,
                attention_mask=torch.ones_like(numbers),
                stopping_criteria=[self._stops],
                **guard,
                **(self.one.alone or {}),
            )
        return list(map(int, found[0, len(prompt) :]))

    def _stops(self, ids: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        """Stand still between two tokens; say whether none is to follow. One of the criteria of `generate`."""
        self._stands.release()
        self._go.acquire()
        over = self._left or time.monotonic() >= self.one.until
        return torch.full((len(ids),), over, dtype=torch.bool, device=ids.device)


def _require_finite(_: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Check that there is a token to draw: on a GPU `multinomial` would end all work of the process."""
    if not scores.amax(dim=-1).isfinite().all():
        raise BadInputError(TOO_EXTREME)
    return scores
