"""Threads of a model's process."""

from __future__ import annotations

import pytest

from serving.worker.process import cores


@pytest.mark.parametrize(
    ("setting", "processes", "environ", "expected"),
    [
        (None, 1, "", 8),
        (None, 2, "", 4),
        (None, 3, "", 2),
        (None, 100, "", 1),
        (None, 0, "", 8),
        (5, 2, "", 5),
        (5, 2, "3", 5),
        (None, 2, "3", 3),
        (None, 2, "6,2", 6),
        (None, 2, "0", 4),
        (None, 2, "many", 4),
    ],
)
def test_threads(
    monkeypatch: pytest.MonkeyPatch, setting: int | None, processes: int, environ: str, expected: int
) -> None:
    """What the configuration says, then what the environment says, then the share of the cores."""
    monkeypatch.setattr(cores, "available", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", environ)
    assert cores.threads(setting, processes) == expected


def test_openmp_is_calmed_on_a_small_machine_only_and_never_against_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "available", lambda: 2)
    environ: dict[str, str] = {}
    cores.calm_openmp(environ)
    assert environ == {"GOMP_SPINCOUNT": "100000"}
    for own in ({"OMP_WAIT_POLICY": "ACTIVE"}, {"GOMP_SPINCOUNT": "7"}):
        environ = dict(own)
        cores.calm_openmp(environ)
        assert environ == own
    monkeypatch.setattr(cores, "available", lambda: 16)
    environ = {}
    cores.calm_openmp(environ)
    assert environ == {}
