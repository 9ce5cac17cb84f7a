"""The section ``backend:`` of model-config.yaml, which torchmar's worker reads: one row for each setting.

The schema checks it, `effective` shows its defaults, and the worker reads them from here. It imports nothing slow,
which a worker would have to wait for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Literal

_INT_MAX: Final = 2**31 - 1


@dataclass(frozen=True)
class BackendKey:
    """One setting.

    Attributes:
        kind: of its value: one of some words, an integer, a number, true or false.
        default: if it is not set. A text that is not one of its words says how the worker then decides.
        bounds: the least and the largest number.
        words: allowed values; for a number, allowed in its place.
        shared_only: whether it has no effect without ``mode: shared``.
    """

    kind: Literal["word", "integer", "number", "bool"]
    default: Any
    bounds: tuple[int, int] = (0, _INT_MAX)
    words: tuple[str, ...] = ()
    shared_only: bool = False

    @property
    def expected(self) -> str:
        """The allowed values, in words."""
        if self.kind == "bool":
            return "true or false"
        if self.kind == "word":
            return " or ".join(self.words)
        least, most = self.bounds
        number = f"{'a number' if self.kind == 'number' else 'an integer'} from {least}"
        return " or ".join((*self.words, number if most == _INT_MAX else f"{number} to {most}"))

    def fits(self, value: Any) -> bool:
        """Return whether a value is allowed."""
        if isinstance(value, str):
            return value in self.words
        if isinstance(value, bool) or self.kind in ("word", "bool"):
            return isinstance(value, bool) and self.kind == "bool"
        whole = isinstance(value, int) or (self.kind == "number" and isinstance(value, float))
        return whole and self.bounds[0] <= value <= self.bounds[1]


#: By name, in the order in which they are shown.
KEYS: Final = {
    "mode": BackendKey("word", "dedicated", words=("dedicated", "shared")),
    "max_batch_size": BackendKey("integer", 32, (1, 4096), shared_only=True),
    "max_batch_delay_ms": BackendKey("number", 0, (0, 60_000), shared_only=True),
    "processes": BackendKey("integer", 1, (1, 256), shared_only=True),
    "threads": BackendKey("integer", "auto", (1, _INT_MAX), words=("auto",)),
    "isolate_errors": BackendKey("bool", True),
    "pipeline": BackendKey("bool", "by handler", shared_only=True),
    "warm_up": BackendKey("bool", True),
    "retry": BackendKey("bool", "by handler"),
}
