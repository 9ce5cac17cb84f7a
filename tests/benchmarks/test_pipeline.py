from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import yaml

from archive_tool.config.schema import validate
from benchmarks import pipeline
from benchmarks.serving_bench.contenders import Contender
from benchmarks.serving_bench.workloads import MNIST
from handlers import ImageClassifier


@pytest.mark.parametrize(
    ("contenders", "kind"),
    [(pipeline.COMPARISON.contenders, "shared"), (pipeline.COMPARISON.python, "python-shared")],
)
def test_contenders_differ_in_the_second_thread_only(contenders: dict[str, Contender], kind: str) -> None:
    assert pipeline.COMPARISON.together
    assert ",".join(contenders) == pipeline.COMPARISON.chosen == "alone,ahead"
    assert {contender.kind for contender in contenders.values()} == {kind}
    alone, ahead = (contender.model_config(2) for contender in contenders.values())
    assert not list(validate(alone))
    documents = [yaml.safe_load(text) for text in (alone, ahead)]
    assert documents[0]["backend"].pop("pipeline") is False
    assert documents[0] == documents[1]


def test_the_handlers_are_such_as_the_second_thread_works_for() -> None:
    spec = importlib.util.spec_from_file_location("mnist_handler", MNIST / "mnist_handler.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for handler in (module.MNISTDigitClassifier(), ImageClassifier()):
        assert handler.may_pipeline()
        assert not handler.may_pipeline(False)


@pytest.mark.slow  # makes weights of a form that others have
def test_the_archive_of_its_own_workload(tmp_path: Path) -> None:
    made = pipeline.COMPARISON.workloads["mobilenet"](tmp_path)
    contender = pipeline.COMPARISON.contenders["alone"]
    assert made.build(tmp_path / "store", contender, 1) == "mobilenet.mar"
