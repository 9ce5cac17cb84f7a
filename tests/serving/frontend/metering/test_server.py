"""The meters of a server in its three modes."""

from __future__ import annotations

import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from archive_tool.errors import InputError
from serving.frontend.metering.lines import Entry
from serving.frontend.metering.processes import MAX_WORKERS, Seen
from serving.frontend.metering.server import MAX_HOST_SERIES, MAX_LOADED, ServerMeters
from serving.frontend.meters import Meters
from serving.frontend.settings import Settings

from .samples import samples

HOST = socket.gethostname()
OF = f"{{'hostname': '{HOST}', 'model_name': 'mnist', 'model_version': '1.0'}}"
OUR = "{'model_name': 'mnist', 'model_version': '1.0'}"
MACHINE = f"{{'Hostname': '{HOST}', 'Level': 'Host'}}"
SettingsOf = Callable[..., Settings]


def use(meters: Meters) -> None:
    """Tell what happens in a server."""
    meters.loaded("mnist", "1.0", "9000", 1.25)
    meters.answered("mnist", "1.0", queue_s=0.25, total_s=1.0, batch=3)
    meters.answered("mnist", "1.0", queue_s=0.0078, total_s=0.5, batch=1)
    meters.dropped("mnist", "1.0", "deadline")
    meters.defaulted("mnist", "1.0", "deadline")
    meters.resent("mnist", "1.0")
    meters.level("mnist", "1.0", waiting=5, running=2)
    for status in (200, 299, 404, 503, 302):
        meters.responded(status)


def ours(meters: ServerMeters) -> dict[str, float]:
    """Return the samples but those of this process, which change with each look."""
    return {name: value for name, value in samples(meters.text()).items() if not name.startswith("process_")}


def test_torchserves_metrics(settings_of: SettingsOf) -> None:
    meters = ServerMeters(settings_of())
    use(meters)
    shown = samples(meters.text())
    # TorchServe counts a request when it comes, those that are dropped, too.
    assert shown[f"ts_inference_requests_total{OF}"] == 3
    assert shown[f"ts_inference_latency_microseconds{OF}"] == 1_500_000
    assert shown[f"ts_queue_latency_microseconds{OF}"] == pytest.approx(257_800)
    assert shown[f"QueueTime{MACHINE}"] == 7
    assert shown[f"Requests2XX{MACHINE}"] == 2
    assert shown[f"Requests4XX{MACHINE}"] == 1
    assert shown[f"Requests5XX{MACHINE}"] == 2
    worker = f"{{'Hostname': '{HOST}', 'Level': 'Host', 'WorkerName': 'W-9000-mnist_1.0'}}"
    assert shown[f"WorkerLoadTime{worker}"] == 1250


def test_our_own_metrics(settings_of: SettingsOf) -> None:
    meters = ServerMeters(settings_of())
    use(meters)
    shown = samples(meters.text())
    for name, total in (("queue_seconds", 0.2578), ("worker_seconds", 1.2422), ("request_seconds", 1.5)):
        assert shown[f"torchmar_{name}_count{OUR}"] == 2
        assert shown[f"torchmar_{name}_sum{OUR}"] == pytest.approx(total)
    assert shown["torchmar_batch_size_bucket{'le': '2.0', 'model_name': 'mnist', 'model_version': '1.0'}"] == 1
    assert shown[f"torchmar_batch_size_sum{OUR}"] == 4
    assert shown[f"torchmar_requests_waiting{OUR}"] == 5
    assert shown[f"torchmar_requests_in_flight{OUR}"] == 2
    assert shown[f"torchmar_requests_resent_total{OUR}"] == 1
    reason = "{'model_name': 'mnist', 'model_version': '1.0', 'reason': 'deadline'}"
    assert shown[f"torchmar_requests_dropped_total{reason}"] == 1
    assert shown[f"torchmar_default_answers_total{reason}"] == 1


def test_every_family_has_its_type(settings_of: SettingsOf) -> None:
    text = ServerMeters(settings_of()).text().decode()
    assert (
        "# HELP Requests2XX Torchserve prometheus counter metric with unit: Count\n# TYPE Requests2XX counter" in text
    )
    assert "# TYPE ts_queue_latency_microseconds counter\n" in text
    assert "# TYPE WorkerThreadTime gauge\n" in text
    assert "# TYPE HandlerTime gauge\n" in text
    assert "# TYPE torchmar_queue_seconds histogram\n" in text


def test_a_version_is_forgotten_whole(settings_of: SettingsOf) -> None:
    meters = ServerMeters(settings_of())
    before = samples(meters.text())
    use(meters)
    assert meters.worker_line("mnist", "1.0", "[METRICS]HandlerTime.ms:1|#A:b,C:d|#hostname:h,1")
    assert meters.worker_line("mnist", "1.0", "[METRICS]bad")
    meters.forgotten("mnist", "1.0")
    meters.forgotten("mnist", "7")
    after = samples(meters.text())
    assert after.keys() - before.keys() == set()
    assert "mnist" not in meters.text().decode()


def test_lines_of_workers(settings_of: SettingsOf, caplog: pytest.LogCaptureFixture) -> None:
    meters = ServerMeters(settings_of())
    take = meters.worker_line
    assert not take("mnist", "1.0", "Torch worker started.")
    assert take("mnist", "1.0", "[METRICS]HandlerTime.ms:1.5|#ModelName:mnist,Level:Model|#type:GAUGE|#hostname:h,1,id")
    for _ in range(3):
        assert take("mnist", "1.0", "[METRICS]bad")
        assert take("mnist", "1.0", "[METRICS]Other.ms:1|#|#hostname:h,1")
    shown = samples(meters.text())
    assert shown["HandlerTime{'Hostname': 'h', 'Level': 'Model', 'ModelName': 'mnist'}"] == 1.5
    for reason in ("line", "unknown"):
        labels = f"{{'model_name': 'mnist', 'model_version': '1.0', 'reason': '{reason}'}}"
        assert shown[f"torchmar_model_metrics_dropped_total{labels}"] == 3
    assert [record.getMessage() for record in caplog.records] == [
        "A metric of mnist 1.0 is not counted, nor are others like it: not a metric: 'bad'"
    ]


def test_a_handler_cannot_write_the_servers_metrics(settings_of: SettingsOf) -> None:
    meters = ServerMeters(settings_of(model_metrics_auto_detect="true"))
    use(meters)
    before = ours(meters)
    for name, kind in (("Requests2XX", "COUNTER"), ("torchmar_requests_waiting", "GAUGE"), ("CPUUtilization", "GAUGE")):
        assert meters.worker_line("mnist", "1.0", f"[METRICS]{name}.x:99|#Level:Host|#type:{kind}|#hostname:{HOST},1")
    after = ours(meters)
    dropped = "{'model_name': 'mnist', 'model_version': '1.0', 'reason': 'name'}"
    assert after == before | {f"torchmar_model_metrics_dropped_total{dropped}": 3}


def test_only_the_last_workers_are_kept(settings_of: SettingsOf) -> None:
    meters = ServerMeters(settings_of())
    for number in range(MAX_LOADED + 10):
        meters.loaded("a_model_with_a_name_that_is_long", "1.0", str(9000 + number), 1.0)
        meters.loaded("a_model_with_a_name_that_is_long", "1.0", str(9000 + number), 2.0)
    text = meters.text(["WorkerLoadTime"]).decode()
    found = re.findall(r'WorkerName="W-(\d+)-(.*?)"', text)
    assert [number for number, _ in found] == [str(9010 + number) for number in range(MAX_LOADED)]
    assert {name for _, name in found} == {"a_model_with_a_name_that_"}


def test_the_machines_metrics_are_those_of_metrics_yaml(settings_of: SettingsOf) -> None:
    meters = ServerMeters(settings_of())
    meters.host_entry(Entry("CPUUtilization", "Percent", 12.5, (("Level", "Host"),), "", HOST, ""))
    meters.host_entry(Entry("Other", "Percent", 12.5, (("Level", "Host"),), "", HOST, ""))
    meters.host_entry(Entry("MemoryUsed", "Percent", 12.5, (), "", HOST, ""))
    for device in range(MAX_HOST_SERIES + 10):
        pairs = (("Level", "Host"), ("device_id", str(device)))
        meters.host_entry(Entry("GPUUtilization", "Percent", 50, pairs, "", HOST, ""))
    shown = samples(meters.text())
    assert shown[f"CPUUtilization{MACHINE}"] == 12.5
    assert sum(name.startswith("GPUUtilization") for name in shown) == MAX_HOST_SERIES
    assert not any(name.startswith(("Other", "MemoryUsed")) for name in shown)


def test_in_the_log_each_value_is_a_line(settings_of: SettingsOf, caplog: pytest.LogCaptureFixture) -> None:
    meters = ServerMeters(settings_of(metrics_mode="log"))
    with caplog.at_level(logging.INFO):
        use(meters)
        meters.worker_line("mnist", "1.0", "[METRICS]HandlerTime.ms:1|#ModelName:a,Level:Model|#hostname:h,1,id")
        meters.host_entry(Entry("CPUUtilization", "Percent", 12.5, (("Level", "Host"),), "", HOST, ""))
        meters.forgotten("mnist", "1.0")
    lines = [(one.name, one.getMessage().rpartition(",timestamp:")[0]) for one in caplog.records]
    assert lines[:5] == [
        ("TS_METRICS", f"WorkerLoadTime.Milliseconds:1250.0|#WorkerName:W-9000-mnist_1.0,Level:Host|#hostname:{HOST}"),
        ("TS_METRICS", f"ts_inference_requests_total.Count:1.0|#model_name:mnist,model_version:1.0|#hostname:{HOST}"),
        (
            "TS_METRICS",
            "ts_inference_latency_microseconds.Microseconds:1000000.0"
            f"|#model_name:mnist,model_version:1.0|#hostname:{HOST}",
        ),
        (
            "TS_METRICS",
            f"ts_queue_latency_microseconds.Microseconds:250000.0|#model_name:mnist,model_version:1.0|#hostname:{HOST}",
        ),
        ("TS_METRICS", f"QueueTime.Milliseconds:250.0|#Level:Host|#hostname:{HOST}"),
    ]
    assert lines[-2:] == [
        ("MODEL_METRICS", "HandlerTime.ms:1.0|#ModelName:a,Level:Model|#hostname:h,requestID:id"),
        ("TS_METRICS", f"CPUUtilization.Percent:12.5|#Level:Host|#hostname:{HOST}"),
    ]
    assert ("TS_METRICS", f"Requests4XX.Count:1.0|#Level:Host|#hostname:{HOST}") in lines
    assert meters.text() == b""


def test_legacy_shows_three_and_logs_the_rest(settings_of: SettingsOf, caplog: pytest.LogCaptureFixture) -> None:
    meters = ServerMeters(settings_of(metrics_mode="legacy"))
    with caplog.at_level(logging.INFO):
        use(meters)
        meters.worker_line("mnist", "1.0", "[METRICS]HandlerTime.ms:1|#ModelName:a,Level:Model|#hostname:h,1,id")
    assert set(samples(meters.text())) == {
        f"ts_inference_requests_total{OF}",
        f"ts_inference_latency_microseconds{OF}",
        f"ts_queue_latency_microseconds{OF}",
    }
    logged = {one.getMessage().partition(".")[0] for one in caplog.records}
    assert logged == {"WorkerLoadTime", "QueueTime", "Requests2XX", "Requests4XX", "Requests5XX", "HandlerTime"}
    meters.forgotten("mnist", "1.0")
    assert samples(meters.text()) == {}


def test_metrics_yaml_decides_what_there_is(
    tmp_path: Path, settings_of: SettingsOf, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.yaml"
    path.write_text(
        "ts_metrics:\n  counter: [{name: Requests2XX, unit: Count, dimensions: [Level, Hostname]}]\n"
        "  gauge: [{name: QueueTime, unit: ms, dimensions: [Hostname]}]\n"
    )
    meters = ServerMeters(settings_of(metrics_config=str(path)))
    use(meters)
    shown = {name.partition("{")[0] for name in samples(meters.text())}
    assert {name for name in shown if not name.startswith(("torchmar_", "process_"))} == {"Requests2XX"}
    assert "metrics.yaml gives QueueTime the dimensions Hostname; there are 2 values" in caplog.text


def test_a_metrics_yaml_that_prometheus_cannot_show_is_named(tmp_path: Path, settings_of: SettingsOf) -> None:
    path = tmp_path / "metrics.yaml"
    path.write_text("dimensions: []\nmodel_metrics:\n  gauge: [{name: a-b, unit: ms, dimensions: []}]\n")
    with pytest.raises(InputError, match="no name of a metric: 'a-b'") as caught:
        ServerMeters(settings_of(metrics_config=str(path)))
    assert caught.value.where == str(path)
    ServerMeters(settings_of(metrics_config=str(path), metrics_mode="log"))


def test_copies_count_by_themselves(settings_of: SettingsOf) -> None:
    meters = ServerMeters(settings_of())
    before = ours(meters)
    for outcome, seconds in (("answered", 0.5), ("answered", 0.25), ("failed", 1.0), ("dropped", 0.0)):
        meters.shadowed("mnist", "1.0", outcome, seconds)
    shown = samples(meters.text())
    for outcome, times in (("answered", 2), ("failed", 1), ("dropped", 1)):
        labels = f"{{'model_name': 'mnist', 'model_version': '1.0', 'outcome': '{outcome}'}}"
        assert shown[f"torchmar_shadow_requests_total{labels}"] == times
    assert shown[f"torchmar_shadow_seconds_count{OUR}"] == 3
    assert shown[f"torchmar_shadow_seconds_sum{OUR}"] == pytest.approx(1.75)
    assert shown[f"ts_inference_requests_total{OF}"] == 0
    assert shown[f"torchmar_request_seconds_count{OUR}"] == 0
    meters.forgotten("mnist", "1.0")
    assert ours(meters) == before


def test_each_request_counts_once_by_the_status_of_its_answer(settings_of: SettingsOf) -> None:
    meters = ServerMeters(settings_of())
    for status in (200, 204, 302, 404, 503, 999, 0):
        meters.answered("mnist", "1.0", queue_s=0.0, total_s=0.1, batch=1, status=status)
    for reason in ("queue", "client", "timeout"):
        meters.dropped("mnist", "1.0", reason)
    meters.died("mnist", "1.0")
    shown = samples(meters.text())

    def requests(status: str) -> float:
        labels = f"{{'model_name': 'mnist', 'model_version': '1.0', 'status': '{status}'}}"
        return shown[f"torchmar_requests_total{labels}"]

    found = {status: requests(status) for status in ("2xx", "3xx", "4xx", "5xx", "gone")}
    assert found == {"2xx": 2, "3xx": 1, "4xx": 1, "5xx": 4, "gone": 1}
    assert sum(found.values()) == shown[f"ts_inference_requests_total{OF}"]
    # One that came too late: its time counts, and its request was dropped.
    assert shown[f"torchmar_request_seconds_count{OUR}"] == 7
    assert shown[f"torchmar_worker_deaths_total{OUR}"] == 1
    # A counter that begins with 1 has not grown, as Prometheus sees it.
    assert (
        shown["torchmar_requests_dropped_total{'model_name': 'mnist', 'model_version': '1.0', 'reason': 'drain'}"] == 0
    )


def test_processes(settings_of: SettingsOf) -> None:
    meters = ServerMeters(settings_of())
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    workers = [("9000", os.getpid()), ("9001", gone.pid), ("9002", -1)]
    meters.watch(lambda: [Seen("mnist", "1.0", 2, 1, workers)])
    assert "torchmar_workers{" not in meters.text().decode(), "nobody has looked yet"
    meters.look()
    shown = samples(meters.text())
    state = "{'model_name': 'mnist', 'model_version': '1.0', 'state': 'ready'}"
    assert shown[f"torchmar_workers{state}"] == 1
    assert shown[f"torchmar_workers{state.replace('ready', 'starting')}"] == 2
    assert shown[f"torchmar_workers_wanted{OUR}"] == 2
    worker = "{'model_name': 'mnist', 'model_version': '1.0', 'worker': '9000'}"
    assert shown[f"torchmar_worker_memory_bytes{worker}"] > 1_000_000
    assert shown[f"torchmar_worker_cpu_seconds_total{worker}"] > 0
    assert sum(name.startswith("torchmar_worker_memory_bytes") for name in shown) == 1
    if sys.platform == "linux":
        assert shown["process_open_fds{}"] > 2
        assert shown["process_resident_memory_bytes{}"] > 1_000_000


def test_many_workers_are_shown_up_to_a_bound(settings_of: SettingsOf) -> None:
    meters = ServerMeters(settings_of())
    many = [(str(number), os.getpid()) for number in range(MAX_WORKERS - 10)]
    meters.watch(lambda: [Seen("a", "1.0", 1, 1, many), Seen("b", "1.0", 1, 1, many)])
    meters.look()
    shown = samples(meters.text())
    assert sum(name.startswith("torchmar_worker_memory_bytes") for name in shown) == MAX_WORKERS
