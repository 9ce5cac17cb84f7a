"""The contenders: TorchServe's handler on its worker, and ours on ours, plain and optimized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

from benchmarks.serving_bench.contenders import SHARED_WORKERS, Contender, Kind

FASTEST = {"compile": True, "freezing": True, "channels_last": True}


@dataclass(frozen=True)
class Tuned(Contender):
    """A contender with a section `optimize` in the model-config.yaml of its archives.

    Attributes:
        name: of the contender.
        optimize: the section, as YAML; empty for none.
        about: what it is, for the report.
    """

    name: str = ""
    optimize: str = ""
    about: str = ""

    @property
    def label(self) -> str:
        """Its name in tables."""
        return self.name

    @property
    def section(self) -> dict[str, Any]:
        """Content of the section."""
        return yaml.safe_load(self.optimize) or {}

    @property
    def is_16_bit(self) -> bool:
        """Whether it computes with 16-bit types."""
        return self.section.get("dtype", "float32") != "float32"

    def model_config(self, workers: int) -> str:
        """Return the model-config.yaml of its archives, for so many workers."""
        document = yaml.safe_load(super().model_config(workers))
        if self.section:
            document["optimize"] = self.section
            # A network that is compiled for the first time takes minutes where there are few cores.
            document |= {"responseTimeout": 600, "startupTimeout": 600}
        return yaml.safe_dump(document, sort_keys=False)


def _ours(name: str, about: str, kind: Kind = "shared", **optimize: Any) -> Tuned:
    section = yaml.safe_dump(optimize, default_flow_style=True, sort_keys=False).strip() if optimize else ""
    return Tuned(kind, SHARED_WORKERS if kind == "shared" else 1, name=name, optimize=section, about=about)


STOCK = "stock"
DEFAULTS = "defaults"
BEST_16_BIT = "bfloat16 compiled"
CONTENDERS = {
    contender.name: contender
    for contender in (
        Tuned("stock", name=STOCK, about="TorchServe as it comes, and its image_classifier"),
        _ours(DEFAULTS, "our image_classifier on our worker, nothing set", "dedicated"),
        _ours("shared", "the same with `backend: {mode: shared}`, as are those below"),
        _ours("bfloat16", "`optimize: {dtype: bfloat16}`", dtype="bfloat16"),
        _ours("compiled", "`optimize: {compile: true, freezing: true, channels_last: true}`", **FASTEST),
        _ours(BEST_16_BIT, "the two together", dtype="bfloat16", **FASTEST),
    )
}


def parse(text: str) -> tuple[Tuned, ...]:
    """Parse names with commas between them; TorchServe's comes first, for ratios are to it.

    Raises:
        ValueError: there is no such contender.
    """
    names = [name.strip() for name in text.split(",")]
    if unknown := [name for name in names if name not in CONTENDERS]:
        raise ValueError(f"not a contender: {unknown[0]!r}; choose of {', '.join(CONTENDERS)}")
    return tuple(CONTENDERS[name] for name in dict.fromkeys([STOCK, *names]))
