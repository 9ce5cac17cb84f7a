from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from benchmarks.serving_bench import chart, report
from benchmarks.serving_bench.contenders import Contender
from benchmarks.serving_bench.driver import Figures, bundled_load, wrk_command
from benchmarks.serving_bench.results import Bare, Life, Load, Results, median, ratio
from benchmarks.serving_bench.targets import Target, targets

STOCK, DEDICATED, SHARED = Contender("stock"), Contender("dedicated"), Contender("shared", 16)


def _figures(rps: float, p50: float = 1.0, p99: float = 2.0, errors: int = 0) -> Figures:
    return Figures(requests=100, seconds=1.0, rps=rps, p50_ms=p50, p99_ms=p99, max_ms=9.0, errors=errors)


@pytest.fixture
def results() -> Results:
    made = Results({"machine": "a | b"}, (STOCK, DEDICATED, SHARED), {"noop": "nothing", "mnist": "digits"}, (1, 32), 8)
    for number, factor in enumerate((1.0, 5.0, 0.9)):  # the second round is an outlier
        for workload in made.titles:
            made.loads += [
                Load(number, workload, STOCK, 1, _figures(1000 * factor, p50=2.0)),
                Load(number, workload, STOCK, 32, _figures(2000 * factor, p99=40.0), 1.0, 0.8),
                Load(number, workload, SHARED, 1, _figures(1700 * factor, p50=1.0, errors=1)),
                Load(number, workload, SHARED, 32, _figures(7000 * factor, p99=10.0), 0.25, 0.2),
            ]
        made.bares += [Bare(number, "mnist", threads, 32, rate) for threads, rate in ((0, 8000.0), (1, 10000.0))]
        made.lives += [
            Life(number, STOCK, 5.0, 4.0, 250.0, 1300.0, 8, 10.0, 400.0),
            Life(number, SHARED, 2.5, 0.1, 200.0, 290.0, 10, 6.0, 300.0),
        ]
    return made


def test_medians_leave_an_outlier_out(results: Results) -> None:
    assert results.load("noop", STOCK, 1, "rps") == 1000
    assert results.load("noop", DEDICATED, 1, "rps") is None
    assert results.errors("noop", SHARED) == 3
    assert results.life(SHARED, "scale_s") == 0.1
    assert results.limit("mnist", 32) == 10000
    assert results.limit("noop", 32) is None
    assert results.spread == pytest.approx(4.1)


def test_a_median_and_a_ratio_of_nothing_are_nothing() -> None:
    assert median([]) is None
    assert median([3.0, 1.0, 2.0]) == 2.0
    assert ratio(1.0, None) is None
    assert ratio(1.0, 0.0) is None
    assert ratio(3.0, 2.0) == 1.5


def test_targets_are_ratios_within_the_run(results: Results) -> None:
    found = {target.text: target for target in targets(results)}
    assert found["no-op, 1 connection, shared: requests/s against stock"].met is True
    assert found["no-op, 1 connection, dedicated: requests/s against stock"].met is None
    assert found["MNIST, 32 connections, shared: requests/s against stock"].measured == 3.5
    assert found["MNIST, 32 connections, shared: requests/s against the bare handler at batch 32"].measured == 0.7
    assert found["MNIST, 1 connection, shared: p50 against stock"].measured == 0.5
    assert found["MNIST, from 1 to 8 workers, shared: time against stock"].measured == pytest.approx(0.025)
    assert found["MNIST, 8 workers, shared: PSS against stock"].measured == pytest.approx(290 / 1300)
    assert found["MNIST, start to READY, one worker, shared: time against stock"].measured == 0.5
    assert found["noop, 32 connections, shared: p99 against stock"].measured == 0.25


def test_the_python_frontend_has_targets_of_its_own(results: Results) -> None:
    assert not any("python" in target.text for target in targets(results))
    python = Contender("python-shared", 2, 32)
    results.contenders = (STOCK, Contender("stock-quiet"), SHARED, python)
    results.loads.append(Load(0, "noop", python, 32, _figures(14000, p99=5.0)))
    results.lives.append(Life(0, python, 2.0, 0.1, 200.0, 290.0, 10, 3.0, 100.0))
    found = {target.text: target for target in targets(results) if target.text.startswith("python-shared: ")}
    measured = {text.partition(": ")[2]: target.measured for text, target in found.items() if target.measured}
    assert measured == {
        "no-op, 32 connections: requests/s against Java and shared": 2.0,
        "noop, 32 connections: p99 against Java and shared": 0.5,
        "MNIST, start to READY against stock": 0.4,
        "MNIST, processor time of the start against stock": 0.3,
        "MNIST, PSS of the frontend's process against stock": 0.25,
    }
    assert len(found) == 15


def test_the_better_of_mosecs_waits_is_the_one_to_beat(results: Results) -> None:
    python, fastapi = Contender("python-shared", 2, 32), Contender("fastapi")
    waits = [Contender("mosec", 1, 32, wait) for wait in (0, 1)]
    results.contenders = (python, *waits, fastapi)
    for contender, rates, p50 in (
        (python, (600, 3000), 1.0),
        (waits[0], (400, 1000), 9.0),
        (waits[1], (300, 1500), 9.0),
    ):
        for connections, rps in zip((1, 32), rates, strict=True):
            results.loads.append(Load(0, "mnist", contender, connections, _figures(rps, p50=p50)))
    results.loads.append(Load(0, "mnist", fastapi, 1, _figures(900, p50=0.75)))
    found = {target.text: target for target in targets(results) if "mosec" in target.text or "FastAPI" in target.text}
    assert {text.partition(": ")[2]: (one.bound, one.measured, one.met) for text, one in found.items()} == {
        "MNIST, 1 connection: requests/s against mosec": (1.5, 1.5, True),
        "MNIST, 8 connections: requests/s against mosec": (1.3, None, None),
        "MNIST, 32 connections: requests/s against mosec": (1.3, 2.0, True),
        "MNIST, 64 connections: requests/s against mosec": (1.3, None, None),
        "MNIST, 1 connection: p50 minus FastAPI's, in ms": (0.3, 0.25, True),
    }


def test_batches_of_a_dedicated_worker_are_compared_with_none(results: Results) -> None:
    many, one = Contender("python-dedicated", 1, 32), Contender("python-dedicated", 1, 1)
    results.contenders = (STOCK, SHARED, many)
    assert not any("batchSize 1" in target.text for target in targets(results))
    results.contenders = (STOCK, SHARED, many, one)
    for workload in results.titles:
        results.loads.append(Load(0, workload, many, 1, _figures(1000, p50=1.2)))
        results.loads.append(Load(0, workload, one, 1, _figures(1000, p50=1.0)))
    results.loads.append(Load(0, "mnist", many, 32, _figures(14000)))
    name = "python-dedicated, batchSize 32: "
    found = {target.text.removeprefix(name): target for target in targets(results) if target.text.startswith(name)}
    assert {text: (target.sign, target.bound, target.measured) for text, target in found.items()} == {
        "noop, 1 connection: p50 against batchSize 1": ("<=", 1.05, 1.2),
        "mnist, 1 connection: p50 against batchSize 1": ("<=", 1.05, 1.2),
        "MNIST, 32 connections: requests/s against Java and shared": (">=", 1.0, 2.0),
    }


@pytest.mark.parametrize(("measured", "met"), [(1.6, True), (1.59, False), (None, None)])
def test_a_bound_belongs_to_what_meets_it(measured: float | None, met: bool | None) -> None:
    assert Target("t", ">=", 1.6, measured).met is met
    assert Target("t", "<=", 1.6, measured and 3.2 - measured).met is met


def test_the_report_has_every_table_with_ratios(results: Results) -> None:
    results.problems.append("it broke")
    text = report.markdown(results, plot="serving.svg")
    assert "| shared, 16 workers | 1,700 (1.70) | 7,000 (3.50) | 3 |" in text
    assert "| dedicated | - | - | 0 |" in text
    assert "| dedicated | - | - |\n" in text
    assert "| shared, 16 workers | 1.00 (0.50) / 2.00 (1.00) | 1.00 (1.00) / 10.0 (0.25) |" in text
    assert "| 1 torch thread | 10,000 |" in text
    assert "| shared | 2.50 (0.50) | 6.00 (0.60) | 0.10 (0.025) | 200 (0.80) | 290 (0.22) | 300 (0.75) | 10 |" in text
    assert "| shared, 16 workers | 0 / 0 | 0.25 (0.25) / 0.20 (0.25) |" in text
    assert "- it broke" in text
    assert "![" in text
    assert "| >= 1.6 | 1.70 | yes |" in text


def test_a_report_of_nothing_is_still_a_report() -> None:
    empty = Results({}, (STOCK,), {"noop": "nothing"}, (1,), 8)
    assert "not measured" in report.markdown(empty)
    ET.fromstring(chart.svg(empty))


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0"), (0.0251, "0.025"), (0.123, "0.12"), (12.34, "12.3"), (123.4, "123"), (12345.6, "12,346")],
)
def test_numbers_have_about_three_digits(value: float | None, text: str) -> None:
    assert report.number(value) == text


def test_cells_do_not_break_the_table() -> None:
    assert report.table(("a|b", "c"), [("1", "2")]) == "| a\\|b | c |\n| --- | ---: |\n| 1 | 2 |"


def test_the_document_is_json_with_every_measurement(results: Results) -> None:
    document = json.loads(json.dumps(results.document()))
    assert len(document["loads"]) == 24
    assert document["loads"][2] == {
        "round": 0,
        "workload": "noop",
        "contender": "shared, 16 workers",
        "connections": 1,
        "requests": 100,
        "seconds": 1.0,
        "rps": 1700.0,
        "p50_ms": 1.0,
        "p99_ms": 2.0,
        "max_ms": 9.0,
        "errors": 1,
        "processor_ms": 0.0,
        "frontend_ms": 0.0,
    }
    assert document["lives"][1]["contender"] == "shared, 16 workers"
    assert document["bare"][0] == {"round": 0, "workload": "mnist", "threads": 0, "batch": 32, "rate": 8000.0}


@pytest.mark.parametrize(
    ("most", "step", "top"), [(0, 1, 1), (1.0, 0.2, 1.2), (93, 20, 100), (7000, 2000, 8000), (0.031, 0.01, 0.04)]
)
def test_scales_have_round_steps_and_room_above_the_highest_bar(most: float, step: float, top: float) -> None:
    assert chart.scale(most) == (pytest.approx(step), pytest.approx(top))


def test_the_chart_is_svg_with_a_bar_for_every_median(results: Results) -> None:
    svg = "{http://www.w3.org/2000/svg}"
    root = ET.fromstring(chart.svg(results))
    bars = [title.text for title in root.iter(f"{svg}title")]
    assert len(bars) == 2 * 4 + 4 + 4
    assert "shared, 16 workers, 32 connections: 7,000" in bars
    texts = [text.text for text in root.iter(f"{svg}text")]
    assert "without a server, batch 32" in texts
    for bar in root.iter(f"{svg}rect"):
        assert float(bar.get("height", "0")) >= 0


def test_labels_are_escaped() -> None:
    panel = chart.Panel("a < b", ["g & h"], ["s"], [[1.0]])
    ET.fromstring(chart.render([panel], ["<s>"]))


def test_both_drivers_are_told_the_same(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.write_bytes(file.name.encode() * 3)
    wrk = wrk_command("http://h:1/predictions/m", files, 8, 2.0)
    assert wrk[-4:] == ["http://h:1/predictions/m", "--", *map(str, files)]
    assert {"-c8", "-d2s"} < set(wrk)
    load = bundled_load("http://h:1/predictions/m", files, 8, 2.0)
    assert (load.place.host, load.place.port, load.connections, load.seconds) == ("h", 1, 8, 2.0)
    heads, bodies = zip(*(request.split(b"\r\n\r\n") for request in load.requests), strict=True)
    assert bodies == (b"aaa", b"bbb")
    assert all(head.startswith(b"POST /predictions/m HTTP/1.1\r\n") for head in heads)
    assert all(b"content-type: application/octet-stream" in head for head in heads)
