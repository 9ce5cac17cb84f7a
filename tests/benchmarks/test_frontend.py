from __future__ import annotations

from pathlib import Path

from benchmarks import frontend
from serving.control.configuration import settings
from serving.control.configuration.config import default_properties
from serving.control.configuration.few_cores import THREADS


def test_contenders_say_all_that_the_experiment_would_decide(tmp_path: Path) -> None:
    for contender in frontend.COMPARISON.contenders.values():
        lines = dict(line.split("=", 1) for line in contender.settings.splitlines())
        assert lines.keys() == {"vmargs", *THREADS}
        assert settings.checked(default_properties() | lines, tmp_path).items() >= lines.items()
