from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from benchmarks.serving_bench.contenders import Contender
from benchmarks.serving_bench.servers import properties, proportional_kb, start_command


@pytest.mark.parametrize(
    ("text", "contender", "label"),
    [
        ("stock", Contender("stock"), "stock"),
        ("stock-quiet", Contender("stock-quiet"), "stock quiet"),
        ("dedicated:2", Contender("dedicated", 2), "dedicated, 2 workers"),
        ("shared", Contender("shared", 16), "shared, 16 workers"),
        ("shared:1:32:2", Contender("shared", 1, 32, 2), "shared, batchSize 32 after 2 ms"),
    ],
)
def test_a_contender_is_a_kind_with_the_frontends_numbers(text: str, contender: Contender, label: str) -> None:
    assert Contender.parse(text) == contender
    assert contender.label == label


@pytest.mark.parametrize("text", ["", "stok", "shared:0", "shared:x", "shared:1:2:3:4", "shared:"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a contender"):
        Contender.parse(text)


def test_only_the_shared_archive_names_a_backend() -> None:
    dedicated = yaml.safe_load(Contender("dedicated").model_config(1))
    assert dedicated == {"minWorkers": 1, "maxWorkers": 1, "batchSize": 1}
    shared = yaml.safe_load(Contender("shared", 4, 32, 1).model_config(4))
    assert shared["backend"]["mode"] == "shared"
    assert (shared["minWorkers"], shared["batchSize"], shared["maxBatchDelay"]) == (4, 32, 1)


def test_each_contender_is_started_by_its_own_command() -> None:
    commands = {
        kind: start_command(Contender(kind), ["m=m.mar"], Path("/f")) for kind in ("stock", "stock-quiet", "dedicated")
    }
    assert Path(commands["stock"][0]).name == "torchserve"
    assert "--stock-worker" in commands["stock-quiet"]
    assert Path(commands["dedicated"][0]).name == "torchmar"
    assert "--stock-worker" not in commands["dedicated"]
    for command in commands.values():
        assert command[-6:] == [
            "--models",
            "m=m.mar",
            "--model-store",
            "/f/store",
            "--ts-config",
            "/f/config.properties",
        ]


def test_the_configuration_holds_addresses_and_one_worker() -> None:
    lines = properties(["http://a:1", "http://a:2", "http://a:3"], [4, 5]).splitlines()
    assert lines[:3] == ["inference_address=http://a:1", "management_address=http://a:2", "metrics_address=http://a:3"]
    assert "grpc_management_port=5" in lines
    assert not any("metrics_mode" in line or "log4j" in line for line in lines)


def test_the_proportional_memory_of_a_process() -> None:
    text = "0-1 ---p 00000000 00:00 0  [rollup]\nRss:  900 kB\nPss:   345 kB\nPss_Dirty: 20 kB\n"
    assert proportional_kb(text) == 345
