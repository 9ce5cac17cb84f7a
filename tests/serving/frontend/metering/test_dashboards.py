"""docs/grafana.json and docs/prometheus-alerts.yml: what they ask for is there, and the alerts are what they say."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from serving.frontend.metering.processes import Seen
from serving.frontend.metering.server import ServerMeters
from serving.frontend.settings import Settings
from tests.serving.frontend.metering.expressions import DOCS, alerts, panels

from .samples import samples

# Of the machine's collector and of handlers; `up` is Prometheus' own.
_ELSEWHERE = {"CPUUtilization", "MemoryUtilization", "HandlerTime", "up"}
_WORDS = "sum|rate|increase|histogram_quantile|min_over_time|by|le|instance|reason|status|state|model_\\w+"
needs_promtool = pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")


def names(expression: str) -> set[str]:
    """Return the metrics of an expression."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|by \([^)]*\)", " ", expression)
    return {name for name in re.findall(r"[a-zA-Z_]\w*", bare) if not re.fullmatch(_WORDS, name)}


def test_every_metric_is_one_of_the_servers(settings_of: Callable[..., Settings]) -> None:
    meters = ServerMeters(settings_of())
    meters.answered("mnist", "1.0", queue_s=0.1, total_s=0.2, batch=1, status=200)
    meters.loaded("mnist", "1.0", "9000", 1.0)
    meters.watch(lambda: [Seen("mnist", "1.0", 1, 1, [("9000", os.getpid())])])
    meters.look()
    there = {name.partition("{")[0] for name in samples(meters.text())} | _ELSEWHERE
    asked = {name for expression in (*panels().values(), *alerts().values()) for name in names(expression)}
    assert asked - there == set()
    assert len(asked) > 20


def test_panels_do_not_overlap() -> None:
    places = [one["gridPos"] for one in json.loads((DOCS / "grafana.json").read_text())["panels"]]
    cells = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(cells) == len(set(cells))
    assert all(at["x"] + at["w"] <= 24 for at in places)


@needs_promtool
def test_the_rules_pass_promtool() -> None:
    done = subprocess.run(
        ["promtool", "check", "rules", DOCS / "prometheus-alerts.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(alerts())} rules found" in done.stdout


@needs_promtool
def test_alerts_fire_where_they_are_to(tmp_path: Path) -> None:
    """By promtool's own unit tests: a model loses its worker, fails one request of ten, and refuses others."""
    of = 'instance="a:1", job="torchmar", model_name="mnist", model_version="1.0"'
    wrong = {"instance": "a:1", "model_name": "mnist", "model_version": "1.0"}

    def series(name: str, values: str, more: str = "") -> dict[str, str]:
        return {"series": f"{name}{{{of}{more}}}", "values": values}

    test = {
        "rule_files": ["rules.yml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": 'up{instance="a:1", job="torchmar"}', "values": "1x30"},
                    series("torchmar_workers", "1x10 0x20", ', state="ready"'),
                    series("torchmar_workers_wanted", "1x30"),
                    series("torchmar_requests_total", "0+90x30", ', status="2xx"'),
                    series("torchmar_requests_total", "0+10x30", ', status="5xx"'),
                    series("torchmar_requests_dropped_total", "0x20 1x10", ', reason="queue"'),
                    series("torchmar_requests_dropped_total", "0x30", ', reason="drain"'),
                ],
                "alert_rule_test": [
                    {"eval_time": "9m", "alertname": "TorchmarModelWithoutWorker", "exp_alerts": []},
                    {"eval_time": "30m", "alertname": "TorchmarDown", "exp_alerts": []},
                    {"eval_time": "30m", "alertname": "TorchmarWorkersDie", "exp_alerts": []},
                    *(
                        {
                            "eval_time": at,
                            "alertname": name,
                            "exp_alerts": [{"exp_labels": {**wrong, "severity": "critical"}}],
                        }
                        for name, at in (
                            ("TorchmarModelWithoutWorker", "15m"),
                            ("TorchmarErrors", "12m"),
                            ("TorchmarQueueFull", "22m"),
                        )
                    ),
                ],
            }
        ],
    }
    # Only names and labels are compared: the texts would only be repeated here.
    rules = yaml.safe_load((DOCS / "prometheus-alerts.yml").read_text())
    for rule in rules["groups"][0]["rules"]:
        del rule["annotations"]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    (tmp_path / "test.yml").write_text(yaml.safe_dump(test))
    done = subprocess.run(
        ["promtool", "test", "rules", tmp_path / "test.yml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
