from __future__ import annotations

import os
from dataclasses import replace

import pytest
from click.testing import CliRunner

from serving.cli.models import print_models, scale, traffic
from serving.client import ModelVersion, TrafficShare, WorkerInfo


def version(number: str, *, default: bool) -> ModelVersion:
    row = {"modelName": "[bold]mnist", "modelVersion": number, "modelUrl": "mnist.mar", "batchSize": 4}
    found = ModelVersion.from_dict(row, default=default)
    # No child of a Java process: of a server elsewhere, whose own figure counts.
    worker = WorkerInfo("9000", "READY", os.getpid(), 5_000_000, False)
    return ModelVersion(**{**vars(found), "workers": (worker,)})


def test_the_table_has_a_row_a_version_and_marks_the_default(capsys: pytest.CaptureFixture[str]) -> None:
    print_models([version("1.0", default=False), version("2.0", default=True)])
    shown = capsys.readouterr().out
    assert "1.0 " in shown
    assert "2.0 *" in shown
    assert "[bold]mnist" in shown
    assert str(os.getpid()) in shown
    assert " 5 MB" in shown
    assert "* is the version" in shown


def test_a_single_version_needs_no_mark(capsys: pytest.CaptureFixture[str]) -> None:
    print_models([version("1.0", default=True)])
    assert "*" not in capsys.readouterr().out


def test_shares_have_a_column_where_there_are_any(capsys: pytest.CaptureFixture[str]) -> None:
    canary = replace(version("2.0", default=False), traffic=TrafficShare(5, shadow=False, sticky_headers=("x-[user]",)))
    print_models([version("1.0", default=True), canary])
    shown = capsys.readouterr().out
    assert shown.splitlines()[0].split()[-1] == "share"
    assert "5 % by x-[user]" in shown
    assert "reach, but for the shares" in shown


@pytest.mark.parametrize("percent", ["-1", "101", "0.5", "x"])
def test_a_percent_that_is_none_is_refused(percent: str) -> None:
    done = CliRunner().invoke(traffic, ["mnist", "2.0", "--percent", percent])
    assert done.exit_code == 2
    assert "--percent" in done.output


def test_no_models(capsys: pytest.CaptureFixture[str]) -> None:
    print_models([])
    assert capsys.readouterr().out.strip() == "no models"


def test_bounds_that_contradict_each_other_are_refused() -> None:
    done = CliRunner().invoke(scale, ["mnist", "--min-workers", "3", "--max-workers", "2"])
    assert done.exit_code == 2
    assert "--max-workers 2 is less than --min-workers 3" in done.output
