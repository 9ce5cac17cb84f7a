from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import serving
from benchmarks.serving_bench.contenders import KINDS, Contender
from benchmarks.serving_bench.workloads import best_class, noop


def test_quick_changes_only_what_was_not_said() -> None:
    options = serving.parse(["--quick", "--connections", "4", "--driver", "bundled"])
    assert (options.rounds, options.seconds, options.connections) == (1, 1.0, (4,))
    usual = serving.parse(["--driver", "bundled"])
    assert (usual.rounds, usual.seconds, usual.connections) == (3, 5.0, (1, 8, 32, 64))
    assert list(dict.fromkeys(contender.kind for contender in usual.contenders)) == list(KINDS)
    assert usual.workloads == ["noop", "mnist", "resnet18"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--contenders", "other"],
        ["--connections", "1,x"],
        ["--workloads", "noop,other"],
        ["--rounds", "0"],
        ["--parts", "x"],
    ],
)
def test_a_wrong_option_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        serving.parse(arguments)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_contenders_get_archives_that_differ_in_their_configuration_only(tmp_path: Path) -> None:
    from archive_tool import open_archive

    workload = noop(tmp_path)
    configs = set()
    for contender in (Contender("stock"), Contender("shared", 16)):
        store = tmp_path / contender.kind
        assert workload.build(store, contender, contender.workers) == "noop.mar"
        assert [path.name for path in store.iterdir()] == ["noop.mar"]
        with open_archive(store / "noop.mar") as archive:
            assert "noop_handler.py" in {member.name for member in archive.members}
            configs.add(archive.read("model-config.yaml", 1000))
    assert len(configs) == 2


def test_the_most_probable_class_is_what_must_agree() -> None:
    assert best_class(b'{"7": 0.2, "3": 0.5, "1": 0.1}') == "3"
