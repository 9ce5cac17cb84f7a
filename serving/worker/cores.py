"""How many cores this process may use, and how many threads a model's process should."""

from __future__ import annotations

import math
import os
from collections.abc import MutableMapping
from pathlib import Path

# Cores; with more, spinning threads have some to spin on.
_SMALL = 4
# Turns of libgomp's waiting loop, a millisecond or two, a third of its default: from one region of a large model to the
# next it takes less, also where Java or another thread comes between.
_SPINS = "100000"
_V2 = Path("/sys/fs/cgroup")
_V1 = Path("/sys/fs/cgroup/cpu")


def available(v2: Path = _V2, v1: Path = _V1, own: Path = Path("/proc/self/cgroup")) -> int:
    """Cores that this process may use: its affinity, and the quota of its control groups, rounded up."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    quotas = [quota for quota in (*_v2_quotas(v2, own), _v1_quota(v1)) if quota is not None]
    return max(1, min([cores, *(math.ceil(quota) for quota in quotas)]))


def _v2_quotas(root: Path, own: Path) -> list[float | None]:
    """Of our own group and of those above it: each may bound it. In a container the root is our own."""
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    path = next((line[3:].lstrip("/") for line in lines if line.startswith("0::")), "")
    folders = [root / path, *(root / path).parents] if path else [root]
    return [_v2_quota(folder / "cpu.max") for folder in folders if folder == root or root in folder.parents]


def _v2_quota(file: Path) -> float | None:
    try:
        quota, period = file.read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _v1_quota(folder: Path) -> float | None:
    try:
        quota = int((folder / "cpu.cfs_quota_us").read_text())
        period = int((folder / "cpu.cfs_period_us").read_text())
        return quota / period if quota > 0 and period > 0 else None
    except (OSError, ValueError):
        return None


def calm_openmp(environ: MutableMapping[str, str] = os.environ) -> None:
    """Lets idle threads of OpenMP spin for less long on a small machine, unless the environment says otherwise.

    They spin after every parallel region, on the cores that the frontend needs. If they sleep at once, they must be
    woken for each of the many regions of a large model, which then takes a quarter longer. A small model does without
    them altogether, see `tuning`. To be called before torch is imported.
    """
    if available() <= _SMALL and not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & environ.keys():
        environ["GOMP_SPINCOUNT"] = _SPINS


def is_automatic(setting: int | None) -> bool:
    """Whether neither model-config.yaml (``setting``) nor the environment says how many intra-op threads to use."""
    return setting is None and _named() is None


def threads(setting: int | None, processes: int) -> int:
    """Intra-op threads of one of ``processes`` processes of a model.

    Args:
        setting: what model-config.yaml says; None for its share of the cores.
        processes: that run this model side by side.
    """
    return setting or _named() or max(1, available() // max(1, processes))


def _named() -> int | None:
    named = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(named) if named.isdigit() and int(named) > 0 else None
