"""The keys and values of texts that are written together.

All rows end in the same column, so that each step adds one column for all; shorter ones are padded on the left. Rows
join and leave between two steps: what stays is copied once, and no text is read again.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Sequence
from typing import Any, Final

import torch

from handlers.errors import LoadError
from handlers.pretrained import loading

#: Columns that a buffer has room for at least when it is made.
_ROOM: Final = 64
#: Layers of a cache whose keys and values stand in columns.
_COLUMNS: Final = frozenset({"DynamicLayer", "DynamicSlidingWindowLayer"})


def check(model: Any) -> None:
    """Check that a model remembers what it has read in keys and values alone.

    Raises:
        LoadError: it has a state of another kind.
    """
    layers = loading.transformers().DynamicCache(config=model.config).layers
    others = sorted({type(layer).__name__ for layer in layers} - _COLUMNS)
    if others or getattr(model, "_is_stateful", False):
        raise LoadError(
            f"{type(model).__name__} keeps what it has read otherwise than in keys and values "
            f"({', '.join(others) or 'a state'}), and texts that join while others are written cannot be put beside it",
            hint="serve it by engine: vllm in the section handler, or by a handler that calls its generate",
        )


@functools.cache
def _layer() -> Any:
    """Return the class of layers: those of transformers copy all that there is for each token, and these do not."""
    base: Any = loading.transformers().cache_utils.DynamicLayer

    class GrowingLayer(base):  # type: ignore[misc]
        """Keys and values in buffers that have room for further columns."""

        keys: torch.Tensor
        values: torch.Tensor
        is_initialized: bool
        _buffers: tuple[torch.Tensor, torch.Tensor] | None = None

        def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any) -> Any:
            begin = self.get_seq_length()
            if not self.is_initialized:  # not by the method for it, which takes other arguments in transformers 4
                self.dtype, self.device, self.is_initialized = key_states.dtype, key_states.device, True
            end = begin + key_states.shape[-2]
            if self._buffers is None or self._buffers[0].shape[-2] < end:
                self._buffers = (
                    _with_room(self.keys, key_states, begin, end),
                    _with_room(self.values, value_states, begin, end),
                )
            keys, values = self._buffers
            keys[:, :, begin:end] = key_states
            values[:, :, begin:end] = value_states
            self.keys, self.values = keys[:, :, :end], values[:, :, :end]
            return self.keys, self.values

    return GrowingLayer


def _with_room(known: torch.Tensor, like: torch.Tensor, begin: int, end: int) -> torch.Tensor:
    rows, heads, _, size = like.shape
    buffer = like.new_empty(rows, heads, end + max(_ROOM, end // 2), size)
    if begin:
        buffer[:, :, :begin] = known
    return buffer


class Rows:
    """The texts that a model writes together, by what it has read of them."""

    def __init__(self, model: Any, device: torch.device, pad: int) -> None:
        self.lengths: list[int] = []
        self._model = model
        self._device = device
        self._pad = pad
        self._cache: Any = None
        taken = inspect.signature(model.forward).parameters
        self._takes_positions = "position_ids" in taken
        self._name = "cache" if "cache" in taken else "past_key_values"  # its name until transformers 5.20
        self._options = {"logits_to_keep": 1} if "logits_to_keep" in taken else {}

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Read one more token of each row; return the scores of those that may follow, `[rows, words]`."""
        numbers = torch.tensor(tokens, device=self._device)[:, None]
        self.lengths = [length + 1 for length in self.lengths]
        return self._forward(numbers, self._cache, self.lengths, 1)

    def begin(self, prompts: Sequence[Sequence[int]]) -> torch.Tensor:
        """Read texts, which become further rows; return the scores of the tokens that may follow, `[texts, words]`."""
        lengths = [len(one) for one in prompts]
        longest = max(lengths)
        padded = [[self._pad] * (longest - len(one)) + list(one) for one in prompts]
        cache = loading.transformers().cache_utils.Cache(layer_class_to_replicate=_layer())
        scores = self._forward(torch.tensor(padded, device=self._device), cache, lengths, longest)
        if self.lengths:
            self._arrange([*range(len(self.lengths))], cache, lengths)
        else:
            self._cache, self.lengths = cache, lengths
        return scores

    def keep(self, rows: Sequence[int]) -> None:
        """Keep some rows, and forget the others."""
        if not rows:
            self._cache, self.lengths = None, []
        elif len(rows) < len(self.lengths):
            self._arrange(rows, None, [])

    def _arrange(self, rows: Sequence[int], joining: Any, lengths: Sequence[int]) -> None:
        """Put some rows, and those of another cache below them, into buffers as wide as the longest of them."""
        kept = [self.lengths[row] for row in rows]
        longest = max(*kept, *lengths, 0)
        picked = torch.tensor(rows, device=self._device)
        for index, layer in enumerate(self._cache.layers):
            if not layer.is_initialized:  # of a model whose later layers look into the keys of earlier ones
                continue
            other = joining.layers[index] if joining is not None else None
            parts = ((layer.keys, other and other.keys), (layer.values, other and other.values))
            buffers = tuple(_joined(known[picked], more, longest) for known, more in parts)
            layer._buffers = buffers
            layer.keys, layer.values = (buffer[:, :, :longest] for buffer in buffers)
        self.lengths = [*kept, *lengths]

    def _forward(self, numbers: torch.Tensor, cache: Any, lengths: Sequence[int], count: int) -> torch.Tensor:
        """Read the last `count` columns, of rows of these lengths."""
        longest = max(lengths)
        starts = torch.tensor([longest - length for length in lengths], device=self._device)[:, None]
        columns = torch.arange(longest, device=self._device)[None]
        options: dict[str, Any] = dict(self._options)
        if self._takes_positions:
            options["position_ids"] = (columns[:, longest - count :] - starts).clamp(min=0)
        if min(lengths) < longest or not self._takes_positions:
            options["attention_mask"] = (columns >= starts).long()
        with torch.inference_mode():
            output = self._model(input_ids=numbers, **{self._name: cache}, use_cache=True, **options)
            scores: torch.Tensor = output["logits"][:, -1].float()
        return scores


def _joined(known: torch.Tensor, more: torch.Tensor | None, longest: int) -> torch.Tensor:
    """Return rows above others, all ending in column `longest`, with room for further columns, and nothing before."""
    parts = [known] if more is None else [known, more]
    _, heads, _, size = known.shape
    buffer = known.new_zeros(sum(len(part) for part in parts), heads, longest + max(_ROOM, longest // 2), size)
    begin = 0
    for part in parts:
        width = min(longest, part.shape[2])
        buffer[begin : begin + len(part), :, longest - width : longest] = part[:, :, part.shape[2] - width :]
        begin += len(part)
    return buffer
