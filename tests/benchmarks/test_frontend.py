from __future__ import annotations

import pytest

from benchmarks import frontend
from benchmarks.frontend import Case
from benchmarks.serving_bench.driver import Figures
from serving.control.configuration import settings
from serving.control.configuration.config import default_properties
from serving.control.configuration.few_cores import THREADS


def figures(rps: float, p99: float) -> Figures:
    return Figures(100, 1.0, rps, 1.0, p99, 2 * p99, 0)


def test_quick_is_one_round_at_few_connections() -> None:
    options = frontend.parse(["--quick", "--driver", "bundled"])
    assert (options.rounds, options.connections) == (1, (1, 8))
    usual = frontend.parse(["--driver", "bundled"])
    assert (usual.rounds, usual.connections, usual.contenders) == (3, (1, 8, 32, 64), ["usual", "few"])


@pytest.mark.parametrize("arguments", [["--contenders", "x"], ["--workloads", "x"], ["--cores", "0"]])
def test_a_wrong_option_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        frontend.parse(arguments)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_contenders_say_all_that_the_experiment_would_decide(tmp_path) -> None:
    for contender in frontend.CONTENDERS.values():
        lines = dict(line.split("=", 1) for line in contender.settings.splitlines())
        assert lines.keys() == {"vmargs", *THREADS}
        assert settings.checked(default_properties() | lines, tmp_path).items() >= lines.items()


def test_ratios_are_of_one_round() -> None:
    rounds = {"usual": [figures(10, 4), figures(20, 8), figures(90, 8)], "few": [figures(20, 2), figures(30, 4)] * 2}
    rounds["few"] = rounds["few"][:3]
    text = frontend.report({Case("mnist", 8): rounds}, ["usual", "few"])
    assert "| mnist, 8 | 20.0 | 20.0 (1.50) | 8.00 | 2.00 (0.50) | 0 |" in text
