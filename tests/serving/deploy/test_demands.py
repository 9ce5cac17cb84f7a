"""What archives want of a machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from archive_tool.errors import InputError
from serving.deploy.demands import Demand, Size, demand_of, demands_of, size_of

from .archives import unpacked


def test_an_archive_that_says_nothing_gets_one_of_each(tmp_path: Path) -> None:
    demand = demand_of(unpacked(tmp_path, modelVersion="2.1"))
    assert demand == Demand("m", "2.1", demand.size, workers=1, processes=1, cores=1, gpus=0, room=1)
    assert 0 < demand.size < 1000


@pytest.mark.parametrize(
    ("config", "workers", "processes", "cores", "gpus", "room"),
    [
        ("minWorkers: 1\nmaxWorkers: 3\nbatchSize: 4\n", 3, 3, 3, 0, 12),
        ("maxWorkers: 3\n", 1, 1, 1, 0, 1),  # without minWorkers it has no effect
        ("minWorkers: 2\nmaxWorkers: 2\nbackend: {threads: 4}\n", 2, 2, 8, 0, 2),
        ("minWorkers: 8\nmaxWorkers: 8\nbackend: {mode: shared, processes: 2, threads: 3}\n", 8, 2, 6, 0, 8),
        ("deviceType: gpu\n", 1, 1, 1, 1, 1),
        ("deviceIds: [0, 2]\n", 1, 1, 1, 3, 1),
        ("deviceIds: [0, 2]\ndeviceType: cpu\n", 1, 1, 1, 0, 1),
        ("deviceIds: [-1]\n", 1, 1, 1, 1, 1),
        ("parallelType: tp\nparallelLevel: 4\n", 1, 4, 4, 4, 1),
        ("parallelType: pp\ntorchrun: {nproc-per-node: 2}\ndeviceType: cpu\n", 1, 2, 2, 0, 1),
        ("parallelLevel: 4\n", 1, 1, 1, 0, 1),  # without parallelType it has no effect
        (": not yaml [", 1, 1, 1, 0, 1),  # the worker reports it
    ],
)
def test_what_its_configuration_says(
    tmp_path: Path, config: str, workers: int, processes: int, cores: int, gpus: int, room: int
) -> None:
    found = demand_of(unpacked(tmp_path, config))
    assert (found.workers, found.processes, found.cores) == (workers, processes, cores)
    assert (found.gpus, found.room) == (gpus, room)


def test_workers_of_the_command_line_win(tmp_path: Path) -> None:
    found = demand_of(unpacked(tmp_path, "minWorkers: 1\nmaxWorkers: 3\nbatchSize: 2\n"), 5)
    assert (found.workers, found.processes, found.cores, found.room) == (5, 5, 5, 10)


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such archive"):
        demand_of(tmp_path / "gone.mar")


def test_archives_of_one_pod_are_different_ones(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    first, second = unpacked(tmp_path), unpacked(tmp_path / "more")
    with pytest.raises(InputError, match=f"{first} and {second} hold the model m, version 1.0"):
        demands_of([first, second])
    with pytest.raises(InputError, match="hold the model m"):
        demands_of([first, first])


def demand(size: int = 0, processes: int = 1, cores: int = 1, gpus: int = 0) -> Demand:
    return Demand("m", "1.0", size, 1, processes, cores, gpus, 1)


def test_the_size_of_a_pod_is_that_of_all_its_models() -> None:
    size = size_of([demand(cores=2, gpus=1), demand(cores=3, gpus=2)], cpu=None, memory=None, gpus=None)
    assert (size.cpu, size.gpus) == ("5", 2)  # they share GPUs
    assert size.memory == "1Gi"


@pytest.mark.parametrize(
    ("bytes_", "processes", "memory"),
    [(1, 1, "1Gi"), (1 << 30, 1, "3Gi"), (1 << 30, 2, "5Gi"), (100 << 20, 1, "1Gi"), (130 << 20, 1, "1536Mi")],
)
def test_memory_is_estimated_by_the_weights(bytes_: int, processes: int, memory: str) -> None:
    found = size_of([demand(bytes_, processes)], cpu=None, memory=None, gpus=None)
    assert found.memory == memory


def test_what_the_user_says_wins() -> None:
    found = size_of([demand(gpus=2)], cpu="500m", memory="3Gi", gpus=0)
    assert found == Size("500m", "3Gi", 0)
    assert found.resources() == {
        "requests": {"cpu": "500m", "memory": "3Gi"},
        "limits": {"cpu": "500m", "memory": "3Gi"},
    }
    with pytest.raises(InputError, match="not an amount of memory"):
        size_of([demand()], cpu=None, memory="3", gpus=None)


def test_gpus_are_asked_for_by_the_name_of_nvidias_plugin() -> None:
    assert Size("1", "1Gi", 2).resources()["limits"]["nvidia.com/gpu"] == "2"
