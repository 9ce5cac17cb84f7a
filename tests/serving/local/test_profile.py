"""Clocks around the steps of a handler, and traces."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from archive_tool.errors import InputError
from serving.local.profile import Row, Stopwatch, check_trace, rows, trace
from serving.worker.loading.loader import Model
from serving.worker.loading.settings import Backend


def model_of(handler: Any) -> Model:
    return Model("m", handler.handle, None, handler, Backend())


class Handler:
    def preprocess(self, data: Any) -> Any:
        return data

    def postprocess(self, data: Any) -> Any:
        raise ValueError("no")

    def handle(self, data: Any, context: Any) -> Any:
        return self.postprocess(self.preprocess(self.preprocess(data)))


def test_laps() -> None:
    watch, model = Stopwatch(), model_of(Handler())
    watch.adapt(model)
    with pytest.raises(ValueError, match="no"):
        model.entry([1], None)
    lap = watch.lap()
    assert list(lap) == ["preprocess", "postprocess", "handle"]  # what failed took time, too
    assert lap["handle"] >= lap["preprocess"] + lap["postprocess"]
    assert watch.lap() == {}
    assert model.handler.preprocess.__name__ == "preprocess"
    assert model.handler.preprocess.__module__ == Handler.__module__  # the SDK looks which module made a hook


def test_a_step_waits_for_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    cuda = SimpleNamespace(is_initialized=lambda: True, synchronize=lambda: calls.append("wait"))
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))  # type: ignore[arg-type]

    class One(Handler):
        def handle(self, data: Any, context: Any) -> Any:
            calls.append("handle")
            return data

    model = model_of(One())
    Stopwatch().adapt(model)
    model.entry(1, None)
    assert calls == ["wait", "handle", "wait"]
    calls[:] = ["no"]
    cuda.is_initialized = lambda: False
    model.entry(1, None)
    assert calls == ["no", "handle"]


def test_hooks_that_cannot_be_replaced() -> None:
    class Slotted:
        __slots__ = ()

        def inference(self, data: Any) -> Any:
            return data

        def handle(self, data: Any, context: Any) -> Any:
            return self.inference(data)

    watch, model = Stopwatch(), model_of(Slotted())
    watch.adapt(model)
    assert model.entry([1], None) == [1]
    assert list(watch.lap()) == ["handle"]


def test_rows() -> None:
    steps = {"postprocess": 1.0, "preprocess": 2.0, "handle": 5.0}
    assert rows([(8.0, steps)]) == [
        Row("preprocess", 2.0, None, 0.25),
        Row("postprocess", 1.0, None, 0.125),
        Row("rest of the handler", 2.0, None, 0.25),
        Row("frames and worker", 3.0, None, 0.375),
        Row("total", 8.0, None, 1.0),
    ]
    further = [(2.0, {"inference": 1.0, "handle": 1.0}), (4.0, {"inference": 1.5, "handle": 1.0}), (2.0, {})]
    found = {row.name: row for row in rows([(8.0, steps), *further])}
    assert list(found)[:3] == ["preprocess", "inference", "postprocess"]
    assert found["inference"] == Row("inference", 0.0, 1.0, 0.5)
    assert found["preprocess"].median == 0.0
    assert found["rest of the handler"].median == 0.0  # steps that overlap leave no negative rest
    assert found["total"] == Row("total", 8.0, 2.0, 1.0)


def test_a_trace_with_the_names_of_the_steps(tmp_path: Path) -> None:
    import torch

    class Adds(Handler):
        def postprocess(self, data: Any) -> Any:
            return torch.ones(2) + data

    watch, model = Stopwatch(), model_of(Adds())
    watch.adapt(model)
    with trace(tmp_path / "t.json", watch):
        model.entry(1, None)
    model.entry(1, None)  # no longer
    names = [event.get("name") for event in json.loads((tmp_path / "t.json").read_text())["traceEvents"]]
    assert [names.count(name) for name in ("handle", "preprocess", "postprocess", "aten::add")] == [1, 2, 1, 1]


def test_a_trace_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the trace cannot be written"), trace(tmp_path / "no" / "t.json", Stopwatch()):
        pass
    check_trace(tmp_path / "t.json")
    for place in (tmp_path / "no" / "t.json", tmp_path / "file" / "t.json"):
        (tmp_path / "file").touch()
        with pytest.raises(InputError, match=r"t\.json cannot be written"):
            check_trace(place)


def test_a_trace_without_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match="needs torch"), trace(tmp_path / "t.json", Stopwatch()):
        pass
