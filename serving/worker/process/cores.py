"""The number of threads of a model's process, by the cores that it may use."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

from serving.cores import available

# Cores; with more, spinning threads have some to spin on.
_SMALL = 4
# Turns of libgomp's waiting loop, a millisecond or two, a third of its default: from one region of a large model to the
# next it takes less, also where Java or another thread comes between.
_SPINS = "100000"


def calm_openmp(environ: MutableMapping[str, str] = os.environ) -> None:
    """Shorten the spinning of idle OpenMP threads on a small machine, unless the environment says otherwise.

    They spin after every parallel region, on the cores that the frontend needs. If they sleep at once, they must be
    woken for each of the many regions of a large model, which then takes a quarter longer. A small model does without
    them altogether, see `intra_op_threads`. To be called before torch is imported.
    """
    if available() <= _SMALL and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & environ.keys():
        environ["GOMP_SPINCOUNT"] = _SPINS


def is_automatic(setting: int | None) -> bool:
    """Return whether neither model-config.yaml (``setting``) nor the environment sets the intra-op threads."""
    return setting is None and _named() is None


def threads(setting: int | None, processes: int) -> int:
    """Return the intra-op threads of one of ``processes`` processes of a model.

    Args:
        setting: what model-config.yaml says; None for its share of the cores.
        processes: that run this model side by side.
    """
    return setting or _named() or max(1, available() // max(1, processes))


def _named() -> int | None:
    named = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(named) if named.isdigit() and int(named) > 0 else None
