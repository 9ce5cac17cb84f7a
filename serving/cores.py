"""How many cores this process may use: what is started, and what it starts, ask the same."""

from __future__ import annotations

import math
import os
from pathlib import Path

_V2 = Path("/sys/fs/cgroup")
_V1 = Path("/sys/fs/cgroup/cpu")


def available(v2: Path = _V2, v1: Path = _V1, own: Path = Path("/proc/self/cgroup")) -> int:
    """Return how many cores this process may use: its affinity, and the quota of its control groups, rounded up."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    quotas = [quota for quota in (*_v2_quotas(v2, own), _v1_quota(v1)) if quota is not None]
    return max(1, min([cores, *(math.ceil(quota) for quota in quotas)]))


def _v2_quotas(root: Path, own: Path) -> list[float | None]:
    """Return the quotas of our own group and those above it: each may bound it. In a container the root is our own."""
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
