"""metrics.yaml."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from archive_tool.errors import InputError
from serving.control.configuration.java import torchserve_home, worker_home
from serving.frontend.metering.catalogue import Kind, Specification, path_of, read
from serving.frontend.settings import Settings


@pytest.mark.parametrize("home", [worker_home, torchserve_home])
def test_both_homes_have_the_same_metrics(home: Callable[[], Path]) -> None:
    found = read(home() / "ts" / "configs" / "metrics.yaml")
    labels = ("model_name", "model_version", "hostname")
    assert found.frontend["ts_inference_requests_total"] == Specification(
        "ts_inference_requests_total", Kind.COUNTER, "Count", labels
    )
    assert found.frontend["GPUUtilization"].dimensions == ("Level", "DeviceId", "Hostname")
    assert found.models["HandlerTime"].dimensions == ("ModelName", "Level", "Hostname")
    assert len(found.frontend) == 19
    assert len(found.models) == 2


def test_the_path_is_that_of_the_home_unless_another_is_named(settings_of: Callable[..., Settings]) -> None:
    assert path_of(settings_of()) == worker_home() / "ts" / "configs" / "metrics.yaml"
    assert path_of(settings_of(metrics_config="/etc/m.yaml")) == Path("/etc/m.yaml")


def test_groups_may_be_missing(tmp_path: Path) -> None:
    path = tmp_path / "metrics.yaml"
    path.write_text("ts_metrics:\n  counter:\n")
    assert read(path).frontend == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no metrics"),
        ("[]", "no metrics"),
        ("a: [", "not YAML"),
        ("model_metrics: {}", "dimensions: a list of names"),
        ("ts_metrics: 3", "ts_metrics: not a mapping"),
        ("ts_metrics: {counters: []}", "ts_metrics.counters: none of counter, gauge, histogram"),
        ("ts_metrics: {gauge: 3}", r"ts_metrics.gauge: not a list"),
        ("ts_metrics: {gauge: [3]}", r"ts_metrics.gauge\[0\]: not a metric"),
        ("ts_metrics: {gauge: [{name: x}]}", r"ts_metrics.gauge\[0\].unit: no text"),
        ("ts_metrics: {gauge: [{name: x, unit: ms}]}", r"ts_metrics.gauge\[0\].dimensions: not a list"),
        ("ts_metrics: {gauge: [{name: x, unit: ms, dimensions: [1]}]}", "dimensions: not a list of names"),
    ],
)
def test_what_is_no_metrics_yaml_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "metrics.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value.where)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read(tmp_path / "metrics.yaml")
