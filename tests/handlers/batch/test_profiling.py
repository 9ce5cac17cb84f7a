from types import SimpleNamespace

import pytest
import torch
from ts.handler_utils import timer

from handlers.batch import profiling


@pytest.mark.parametrize(("value", "wanted"), [(None, False), ("", False), ("true", True), ("0", True)])
def test_the_variable_counts_whatever_its_value(monkeypatch, value, wanted):
    monkeypatch.delenv("ENABLE_TORCH_PROFILER", raising=False)
    if value is not None:
        monkeypatch.setenv("ENABLE_TORCH_PROFILER", value)
    assert profiling.trace_requested() is wanted


def test_what_is_left_open_is_filled_in(monkeypatch, tmp_path):
    monkeypatch.setattr(profiling.tempfile, "gettempdir", lambda: str(tmp_path))
    given = {}
    profiling.complete_profiler_args(given, {"model": {"modelName": "digits"}})
    assert torch.profiler.ProfilerActivity.CPU in given["activities"]
    assert given["record_shapes"] is True
    with torch.profiler.profile(**given):
        torch.ones(2).sum()
    assert list((tmp_path / "pytorch_profiler" / "digits").iterdir())


def test_what_is_given_stays():
    mine = print
    given = {"on_trace_ready": mine, "with_stack": True}
    profiling.complete_profiler_args(given, None)
    assert given == {"on_trace_ready": mine, "with_stack": True}


def test_a_step_is_recorded_in_milliseconds():
    recorded = []
    metrics = SimpleNamespace(add_time=lambda *arguments: recorded.append(arguments))
    with profiling.timed("inference", torch.device("cpu"), SimpleNamespace(metrics=metrics)):
        pass
    ((name, milliseconds),) = recorded
    assert name == "ts_handler_inference"
    assert 0 <= milliseconds < 1000
    with profiling.timed("inference", None, None):
        pass


def test_the_stocks_own_decorator_is_recognised():
    class Handler:
        def plain(self):
            pass

        decorated = timer.timed(plain)

    assert profiling.is_timed(Handler().decorated)
    assert not profiling.is_timed(Handler().plain)
