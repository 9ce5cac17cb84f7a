"""Cores that a process may use, as the kernel reports them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from serving import cores

OWN = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.fixture
def kernel(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Return the folders of both kinds of control groups, and the file that names our own; none of them there yet."""
    return tmp_path / "v2", tmp_path / "v1", tmp_path / "cgroup"


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_without_control_groups(kernel: tuple[Path, Path, Path]) -> None:
    assert cores.available(*kernel) == OWN


def test_this_machine() -> None:
    assert 1 <= cores.available() <= OWN


@pytest.mark.parametrize(("text", "expected"), [("max 100000\n", OWN), ("100000 100000\n", 1), ("1000 100000\n", 1)])
def test_the_quota_of_a_container(kernel: tuple[Path, Path, Path], text: str, expected: int) -> None:
    v2, v1, own = kernel
    write(v2 / "cpu.max", text)
    write(own, "0::/\n")
    assert cores.available(v2, v1, own) == expected


def test_a_part_of_a_core_counts_as_one(kernel: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    v2, v1, own = kernel
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    write(v2 / "cpu.max", "250000 100000\n")
    assert cores.available(v2, v1, own) == 3


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        ({"a/b": "500000 100000", "a": "300000 100000", "": "max 100000"}, 3),
        ({"a/b": "200000 100000", "a": "300000 100000"}, 2),
        ({"a/b": "max 100000", "a": "max 100000", "c": "100000 100000"}, 64),
    ],
)
def test_the_groups_above_ours_bind_too(
    kernel: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch, quotas: dict[str, str], expected: int
) -> None:
    v2, v1, own = kernel
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    write(own, "12:cpuset:/x\n0::/a/b\n")
    for group, text in quotas.items():
        write(v2 / group / "cpu.max", text)
    assert cores.available(v2, v1, own) == expected


@pytest.mark.parametrize(
    ("quota", "period", "expected"), [("-1", "100000", 64), ("400000", "100000", 4), ("50000", "100000", 1)]
)
def test_the_older_kind_of_control_groups(
    kernel: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch, quota: str, period: str, expected: int
) -> None:
    v2, v1, own = kernel
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    write(v1 / "cpu.cfs_quota_us", quota + "\n")
    write(v1 / "cpu.cfs_period_us", period + "\n")
    assert cores.available(v2, v1, own) == expected


@pytest.mark.parametrize("text", ["", "max", "a b", "1 0", "1 2 3", "\0"])
def test_files_that_say_something_else(kernel: tuple[Path, Path, Path], text: str) -> None:
    v2, v1, own = kernel
    write(own, text)
    write(v2 / "cpu.max", text)
    write(v1 / "cpu.cfs_quota_us", text)
    write(v1 / "cpu.cfs_period_us", text)
    assert cores.available(v2, v1, own) == OWN
