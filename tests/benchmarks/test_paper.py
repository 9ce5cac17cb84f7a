from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import paper as script
from benchmarks.scale_bench import idle
from benchmarks.scale_bench.entrants import Entrant
from benchmarks.scale_bench.paper import Cluster, Measured, Proxy, falls_below, full_at, reckon, spread

NOTHING = dict.fromkeys(Measured.__dataclass_fields__, 0.0)
FREE = Measured.of(NOTHING | {"haproxy_ms": 0.2, "replica_ms": 0.8})
USUAL = Cluster(nodes=1, cores=4, replicas=16)


def test_without_the_costs_of_a_cluster_it_is_linear() -> None:
    one = reckon(FREE, USUAL)
    assert one.rps == pytest.approx(4000)
    many = reckon(FREE, replace(USUAL, nodes=100))
    assert (many.rps, many.linear) == (pytest.approx(400_000), pytest.approx(1.0))
    assert falls_below(FREE, USUAL, 0.9) is None
    assert full_at(FREE, USUAL) is None


def test_few_replicas_or_haproxy_bound_a_node_with_many_cores() -> None:
    wide = replace(USUAL, cores=1000, replicas=2)
    assert reckon(FREE, wide).rps == pytest.approx(2 * 1000 / 0.8)
    assert reckon(FREE, replace(wide, replicas=1000)).rps == pytest.approx(4 * 1000 / 0.2)


def test_checks_grow_with_the_square_of_the_nodes() -> None:
    checked = replace(FREE, haproxy_check_ms=0.05, replica_check_ms=0.2)
    outcomes = {nodes: reckon(checked, replace(USUAL, nodes=nodes)) for nodes in (1, 10, 100, 500)}
    assert outcomes[10].checks_cores == pytest.approx(10 * outcomes[1].checks_cores)
    assert outcomes[100].checks_cores == pytest.approx(100 * 16 / 5 * 0.25 / 1000)
    assert outcomes[100].linear == pytest.approx((4 - 0.08) / (4 - 0.0008))
    below = falls_below(checked, USUAL, 0.9)
    assert below is not None
    assert reckon(checked, replace(USUAL, nodes=below)).linear < 0.9
    assert reckon(checked, replace(USUAL, nodes=below - 1)).linear >= 0.9


def test_a_node_whose_cores_are_all_taken_answers_nothing() -> None:
    full = replace(FREE, node_ms=5000.0)
    assert reckon(full, USUAL).rps == 0
    assert reckon(full, USUAL).linear == 0


def test_the_controller_is_full_sooner_where_replicas_report() -> None:
    busy = replace(FREE, controller_ms=100.0, controller_replica_ms=0.5, controller_autoscaled_ms=0.5)
    assert full_at(busy, USUAL) == int(900 / 8) + 1
    assert full_at(busy, replace(USUAL, autoscaled=True)) == int(900 / 16) + 1
    assert reckon(busy, replace(USUAL, nodes=112)).controller <= 1 < reckon(busy, replace(USUAL, nodes=113)).controller
    # What it takes is taken from the first node alone, and never more than its core.
    assert reckon(busy, replace(USUAL, nodes=1000)).rps == pytest.approx(999 * 4000 + 3000)


def test_what_the_front_asks_of_the_controller_grows_with_the_replicas() -> None:
    asked = replace(FREE, details_ms=100.0, details_replica_ms=0.5, controller_start_ms=25.0)
    assert full_at(asked, USUAL) == int(900 / 8) + 1
    assert reckon(asked, replace(USUAL, nodes=100)).update_s == pytest.approx(100 * 16 * 0.025)


def test_noise_below_nothing_counts_as_nothing_and_what_is_missing_is_an_error() -> None:
    assert Measured.of(NOTHING | {"gcs_node_ms": -0.3}).gcs_node_ms == 0
    with pytest.raises(KeyError):
        Measured.of({"haproxy_ms": 1.0})
    with pytest.raises(ValueError, match="above 0"):
        reckon(FREE, replace(USUAL, cores=0))


def test_a_proxy_takes_the_server_with_the_fewest_and_of_these_the_longest_unasked() -> None:
    proxy = Proxy([1, 2, 3])
    assert [proxy.choose() for _ in range(4)] == [1, 2, 3, 1]
    proxy.done(2)
    proxy.done(3)
    assert [proxy.choose() for _ in range(3)] == [2, 3, 2]


def test_one_proxy_keeps_all_replicas_at_work_and_many_that_know_nothing_do_not() -> None:
    assert spread(1, 16, 1) == pytest.approx(1.0, abs=0.01)
    assert spread(1, 16, 0.5) == pytest.approx(0.5, abs=0.01)
    blind = spread(16, 64, 1)
    assert 0.5 < blind < 0.9
    assert blind < spread(16, 64, 8) <= 1


def idle_lines() -> list[dict[str, Any]]:
    """Return what a cluster takes whose controller takes 10 ms a second, 1 for each replica and 3 for each node."""
    sizes = [("usual", 1, 1, False), ("usual", 1, 9, False), ("usual", 1, 9, True), ("usual", 2, 9, False)]
    lines = []
    for case, nodes, replicas, autoscaling in [*sizes, ("checks", 1, 9, False)]:
        controller = 0.010 + 0.001 * replicas + 0.003 * nodes + autoscaling * 0.002 * replicas
        taken = {
            "controller": controller,
            "gcs": 0.005 * nodes,
            "raylet": 0.02 * nodes,
            "agent": 0.01 * nodes,
            "replica": 0.004 * replicas + (case == "checks") * 0.001 * 88.2,
            "haproxy": (case == "checks") * 0.0001 * 88.2,
        }
        taken = {name: 20 * value for name, value in taken.items()}
        # Eight replicas start in ten seconds, each for 25 ms beside what the controller takes anyway.
        changed = {"seconds": 10.0, "taken": {"controller": 0.2 + 10 * controller}}
        asked = {"seconds": 20.0, "taken": {"controller": 20 * (controller + 10 * (0.004 + 0.0005 * replicas))}}
        size = {"case": case, "nodes": nodes, "replicas": replicas, "autoscaling": autoscaling}
        more = {"changed": changed, "details": {**asked, "asked": 200}}
        lines.append({**size, "seconds": 20.0, "taken": taken, **more})
    return lines


def test_what_each_thing_costs_is_the_difference_of_two_sizes() -> None:
    found = idle.figures(idle_lines())
    assert found.keys() == idle.NAMES.keys()
    expected = {
        "node_ms": 30,
        "controller_ms": 10,
        "controller_replica_ms": 1,
        "controller_node_ms": 3,
        "controller_autoscaled_ms": 2,
        "details_ms": 4,
        "details_replica_ms": 0.5,
        "controller_start_ms": 25,
        "gcs_ms": 0,
        "gcs_replica_ms": 0,
        "gcs_node_ms": 5,
        "replica_ms": 4,
        "haproxy_check_ms": 0.1,
        "replica_check_ms": 1,
    }
    assert found == pytest.approx(expected, abs=1e-9)
    with pytest.raises(KeyError):
        idle.figures(idle_lines()[:2])


def test_the_script_reckons_with_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inputs = tmp_path / "scale.json"
    second = tmp_path / "scale-idle.json"
    arguments = ["paper.py", "--inputs", str(inputs), str(second), "--nodes", "1,10", "--replicas", "4"]
    monkeypatch.setattr("sys.argv", arguments)
    assert script.main() == 1
    assert "is not there: run python benchmarks/scale.py" in capsys.readouterr().err
    load = {"workload": "noop", "entrant": Entrant("ray", 1).label, "connections": 8}
    roles = {"haproxy": 0.1, "manager": 0.1, "replica": 0.5, "worker": 0.3, "gcs": 9.0}
    document: dict[str, Any] = {
        "settings": {"machine": "two cores"},
        "loads": [load | {"roles": roles, "idle_ms": 200.0}],
        "idle": [],
    }
    inputs.write_text(json.dumps(document))
    second.write_text(json.dumps({"settings": {"took": "long"}, "loads": [], "idle": []}))
    assert script.main() == 0
    bounds = capsys.readouterr().out
    assert all(text in bounds for text in script.BOUNDS)
    assert "controller needs more" not in bounds
    bound = script.measured(script.together([document]), "noop")
    assert bound is not None
    assert (bound.replica_check_ms, bound.node_ms, bound.controller_ms) == (0.5, 200.0, 0.0)
    second.write_text(json.dumps({"settings": {"took": "long"}, "loads": [], "idle": idle_lines()[:2]}))
    assert script.main() == 1
    assert "run python benchmarks/scale.py whole" in capsys.readouterr().err
    second.write_text(json.dumps({"settings": {"took": "long"}, "loads": [], "idle": idle_lines()}))
    assert script.main() == 0
    said = capsys.readouterr().out
    assert "## noop" in said
    assert "- machine: two cores" in said
    assert "- took: long" in said
    assert "| a replica, ms a second | 4.00 |" in said
    assert said.count("the controller needs more than its one core from ") == 2
    whole = script.together([json.loads(path.read_text()) for path in (inputs, second)])
    assert script.measured(whole, "mnist") is None
    found = script.measured(whole, "noop")
    assert found is not None
    assert (found.replica_ms, found.manager_ms, found.idle_replica_ms) == pytest.approx((0.8, 0.1, 4.0))


@pytest.mark.parametrize("arguments", [["--nodes", "x"], ["--cores", "0"], ["--nodes", "0"]])
def test_a_wrong_option_is_refused(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        script.parse(arguments)
    assert caught.value.code == 2
