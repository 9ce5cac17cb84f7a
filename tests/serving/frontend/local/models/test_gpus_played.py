"""Which GPU each worker gets. The GPUs are played: `nvidia-smi` is a script, and no worker is started."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from serving.control.configuration import config
from serving.frontend import settings
from serving.frontend.errors import NoGpusError
from serving.frontend.local.models.gpus import Gpus, count
from serving.frontend.local.models.model import Model, Unpacked
from serving.frontend.local.process import launch_of
from serving.frontend.settings import Place, Settings


def settings_of(folder: Path, **properties: str) -> Settings:
    place = Place(folder, settings.home_of(None), folder, folder, folder)
    return settings.of(config.effective(properties, port=None, workers=1), place)


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Return what gives the machine so many GPUs."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    def play(number: int) -> None:
        program = tmp_path / "bin" / "nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        lines = "".join(f"echo {index}\n" for index in range(number))
        program.write_text(f'#!/bin/sh\n[ "$*" = "--query-gpu=index --format=csv,noheader" ] || exit 9\n{lines}')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(program.parent), prepend=":")

    return play


def model(folder: Path, **values: object) -> Model:
    unpacked = Unpacked(folder, folder, "m.mar", None)
    levels = int(str(values.get("parallelLevel", 1)))
    made = Model("m", "1.0", unpacked, "h.py", "python", 1, 100, 120, 120, 1, 1, 100, levels=levels)
    return replace(made, values=values)


@pytest.mark.parametrize(
    ("number", "properties", "values", "expected"),
    [
        (4, {}, {}, [1, 2, 3, 0, 1]),
        (1, {}, {}, [0, 0]),
        (0, {}, {}, [None, None]),
        (4, {"number_of_gpu": "2"}, {}, [1, 0, 1]),
        (2, {"number_of_gpu": "8"}, {}, [1, 0, 1]),
        (4, {"number_of_gpu": "0"}, {}, [None]),
        (4, {}, {"deviceIds": [2, 0, 3]}, [2, 0, 3, 2]),
        (4, {}, {"deviceIds": ["3"]}, [3, 3]),
        (2, {}, {"deviceIds": [5]}, [1, 0, 1]),
        (4, {}, {"deviceType": "cpu"}, [None, None]),
        (4, {}, {"deviceType": "gpu"}, [1, 2]),
        (8, {}, {"parallelType": "pp", "parallelLevel": 2, "deviceIds": [0, 1, 2, 3]}, [0, 2, 0, 2]),
    ],
)
def test_gpus_played_go_round(
    played: Callable[[int], None],
    tmp_path: Path,
    number: int,
    properties: dict[str, str],
    values: dict[str, object],
    expected: list[int | None],
) -> None:
    played(number)
    gpus, wanted = Gpus(settings_of(tmp_path, **properties)), model(tmp_path, **values)
    assert [gpus.next(wanted) for _ in expected] == expected


@pytest.mark.parametrize(
    ("number", "values", "expected"),
    [
        (4, {"parallelType": "pp", "parallelLevel": 2}, (2, 2)),
        (4, {"parallelType": "tp", "parallelLevel": 3}, (1, 1)),
        (4, {"parallelType": "custom", "parallelLevel": 1}, (3, 4)),
        (8, {"parallelType": "pp", "parallelLevel": 2}, (3, 4)),
        (8, {"parallelType": "pp", "parallelLevel": 2, "deviceIds": [0, 1]}, (1, 1)),
        (8, {"parallelType": "pp", "parallelLevel": 2, "deviceIds": [0, 9]}, (3, 4)),  # one that is not there
        (2, {}, (3, 8)),  # a plain model's share theirs
        (2, {"parallelType": "pp"}, (3, 8)),
        (2, {"parallelLevel": 2}, (3, 8)),
        (2, {"parallelType": "pp", "parallelLevel": 2, "deviceType": "cpu"}, (3, 8)),
        (0, {"parallelType": "pp", "parallelLevel": 2}, (3, 8)),
        (0, {"parallelType": "pp", "parallelLevel": 2, "deviceType": "gpu"}, (3, 8)),  # without any it is the processor
    ],
)
def test_gpus_played_workers_of_a_parallel_model_are_as_many_as_have_gpus(
    played: Callable[[int], None],
    tmp_path: Path,
    number: int,
    values: dict[str, object],
    expected: tuple[int, int],
) -> None:
    played(number)
    assert Gpus(settings_of(tmp_path)).fit(model(tmp_path, **values), 3, 8) == expected


def test_gpus_played_a_worker_that_wants_more_than_there_are_is_refused(
    played: Callable[[int], None], tmp_path: Path
) -> None:
    played(2)
    with pytest.raises(NoGpusError, match="No enough gpu devices for model:m parallelLevel:4") as caught:
        Gpus(settings_of(tmp_path)).fit(model(tmp_path, parallelType="tp", parallelLevel=4), 0, 0)
    assert caught.value.document["type"] == "WorkerInitializationException"


def test_gpus_played_each_model_begins_anew(played: Callable[[int], None], tmp_path: Path) -> None:
    played(3)
    gpus, one = Gpus(settings_of(tmp_path)), model(tmp_path)
    assert [gpus.next(wanted) for wanted in (one, one, replace(one, name="other"), one)] == [1, 2, 1, 0]


@pytest.mark.parametrize(("visible", "expected"), [("", 0), ("0", 1), ("2,5", 2), ("-1", 0)])
def test_gpus_played_what_the_environment_shows_counts(
    played: Callable[[int], None], monkeypatch: pytest.MonkeyPatch, visible: str, expected: int
) -> None:
    played(4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert count() == expected


def test_gpus_played_a_worker_and_its_ranks_learn_theirs(played: Callable[[int], None], tmp_path: Path) -> None:
    """A plain worker by the first message, one under torchrun by CUDA_VISIBLE_DEVICES, too."""
    played(4)
    given = settings_of(tmp_path)
    assert model(tmp_path).load(given, 3).gpu_id == 3
    assert model(tmp_path).load(given, None).gpu_id is None
    assert "CUDA_VISIBLE_DEVICES" not in launch_of(model(tmp_path), given, 9000, 3, "python").environ
    ranks = launch_of(model(tmp_path, parallelType="pp", parallelLevel=2), given, 9000, 2, "python")
    assert ranks.environ["CUDA_VISIBLE_DEVICES"] == "2,3"
    assert ranks.argv[:5] == ("torchrun", "--nnodes", "1", "--nproc-per-node", "2")
    assert [Path(str(socket)).name for socket in ranks.sockets] == [".ts.sock.9000", ".ts.sock.9001"]
