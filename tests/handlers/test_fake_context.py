"""The context for tests offers what the worker's does."""

import inspect
import json

import pytest
from ts.context import Context as StockContext
from ts.context import RequestProcessor
from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

from handlers import Context
from handlers.fake_context import FakeContext, FakeMetrics, FakeProcessor, Metric, Request


def public(thing):
    return {name for name in dir(thing) if not name.startswith("_")}


def test_it_has_all_that_the_stock_context_has():
    fake, stock = FakeContext(), StockContext("model", "", None, 1, None, "0.12.0", model_yaml_config={})
    assert public(stock) <= public(fake)
    for name in ("model_name", "manifest", "model_yaml_config", "system_properties", "request_ids", "request_processor",
                 "stopping_criteria", "header_key_sequence_id", "header_key_sequence_start",
                 "header_key_sequence_end"):  # fmt: skip
        assert getattr(fake, name) == getattr(stock, name), name
    fake.anything = 1  # handlers keep things there


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(FakeContext, StockContext), (FakeProcessor, RequestProcessor), (FakeMetrics, MetricsCacheYamlImpl)],
)
def test_methods_take_the_same_arguments(ours, theirs):
    names = [name for name in public(ours) & public(theirs) if inspect.isfunction(getattr(ours, name))]
    assert len(names) >= 6
    for name in names:
        one, other = (list(inspect.signature(getattr(kind, name)).parameters.values()) for kind in (ours, theirs))
        assert [parameter.name for parameter in one] == [parameter.name for parameter in other], name
        for mine, stock in zip(one, other, strict=True):
            if stock.default in (None, "", 0, 200, "ms", "MB"):
                assert mine.default == stock.default, (name, mine.name)


def test_it_has_all_that_the_sdk_uses():
    for name in (*Context.__annotations__, *public(Context)):
        assert hasattr(FakeContext(), name)


def test_the_folder(tmp_path):
    assert FakeContext().manifest is None
    assert FakeContext(tmp_path).manifest is None
    (tmp_path / "MAR-INF").mkdir()
    (tmp_path / "MAR-INF" / "MANIFEST.json").write_text(json.dumps({"model": {"modelName": "m"}}))
    context = FakeContext(tmp_path, batch_size=4, gpu_id=1, config={"a": 1})
    assert context.manifest == {"model": {"modelName": "m"}}
    assert FakeContext(tmp_path, manifest={}).manifest == {}
    assert context.system_properties["model_dir"] == str(tmp_path)
    assert (context.system_properties["batch_size"], context.system_properties["gpu_id"]) == (4, 1)
    assert context.model_yaml_config == {"a": 1}


def test_requests():
    own = Request({"a": b"x", "b": [1]}, {"X-Key": "y"})
    context = FakeContext()
    rows = context.show([b"x", "text", {"n": [1]}, own])
    assert rows == [{"body": bytearray(b"x")}, {"body": "text"}, {"body": {"n": [1]}}, {"a": b"x", "b": [1]}]
    assert isinstance(rows[0]["body"], bytearray)
    assert isinstance(rows[3]["a"], bytearray)
    assert context.request_ids == {0: "request-0", 1: "request-1", 2: "request-2", 3: "request-3"}
    assert context.metrics.request_ids == context.request_ids
    assert context.get_request_id(1) == "request-1"
    assert [context.get_request_header(index, "content-type") for index in range(4)] == [
        None,
        "text/plain",
        "application/json",
        None,
    ]
    assert context.get_all_request_header(3) == {"X-Key": "y"}
    # What a handler does to a row is not seen by the next one.
    rows[2]["body"]["n"].append(2)
    assert context.show([{"n": [1]}, own])[1] == {"a": b"x", "b": [1]}
    rows[3]["b"].append(2)
    assert own.parameters == {"a": b"x", "b": [1]}
    assert FakeContext(requests=[b"x"]).get_request_id() == "request-0"
    assert FakeContext().get_request_id() is None


def test_replies():
    context = FakeContext(requests=[b"", b""])
    assert context.get_response_status(0) == (200, None)
    context.set_response_status(404, "gone", 1)
    context.set_response_content_type(1, "image/png")
    context.set_response_header(0, "X", "1")
    assert context.get_response_status(1) == (404, "gone")
    assert context.get_response_content_type(1) == "image/png"
    assert context.request_processor[1].get_response_header("content-type") == "image/png"
    assert context.get_response_headers(0) == {"X": "1"}
    context.set_all_response_status(500, "x")
    assert [context.get_response_status(index) for index in range(2)] == [(500, "x")] * 2
    context.show([b""])
    assert context.get_response_status(0) == (200, None)
    FakeContext().set_response_status(500)  # as TorchServe's: nothing to set yet


def test_sequences():
    request = Request({}, {"ts_request_sequence_id": "s"})
    assert FakeContext(requests=[request]).get_sequence_id(0) == "s"


def test_metrics():
    metrics = FakeContext().metrics
    metrics.add_counter("c", 1, None)
    metrics.add_time("t", 2.5)
    metrics.add_size("s", 3, unit="kB")
    metrics.add_percent("p", 4)
    metrics.add_error("e", 5)
    metrics.add_metric("m", 6, "unit")
    assert metrics.recorded == [
        Metric("counter", "c", 1, "count"),
        Metric("time", "t", 2.5, "ms"),
        Metric("size", "s", 3, "kB"),
        Metric("percent", "p", 4, "percent"),
        Metric("error", "e", 5),
        Metric("metric", "m", 6, "unit"),
    ]
