from __future__ import annotations

import base64
import hashlib
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from typing import Any, cast

import pytest

from serving.bench import report
from serving.bench.loads import Load, Place
from serving.bench.page import html
from serving.bench.report import Subject, number, percent
from serving.bench.session import Run, Scaling, Session
from serving.bench.tally import Second, Tally

LOAD = Load(Place("h", 1), (b"x",), 8, 2.0, slo_s=0.1)
SUBJECT = Subject("m", "1.0", "http://h:1", False, [("<a>.png", 1234, "image/png")])
HOSTILE = "<script>alert(1)</script>\x1b[31m"


def run_of(name: str = "8 connections", *, workers: int | None = None, good: int = 10, **more: Any) -> Run:
    tally = Tally(0.1)
    for index in range(good):
        tally.answered(0.01 * (index + 1), in_time=True, timing=b"queue;dur=2, batch;desc=4")
    tally.failed("HTTP 503", HOSTILE)
    seconds = (Second(1.0, good, 0, 0, 5.0, 50.0, 8, 0), Second(2.0, good, 1, 1, 6.0, 60.0, 8, 0))
    figures = replace(tally.figures(2.0, 0.25), **more)
    return Run(name, workers, LOAD, figures, seconds if good else (), 0.5, ())


@pytest.fixture
def session() -> Session:
    return Session(LOAD, (8,), runs=[run_of()])


def test_a_row_for_each_load(session: Session) -> None:
    head, row = report.heads(session), report.rows(session)[0]
    assert dict(zip(head, row, strict=True)) == {
        "load": "8 connections",
        "requests/s": "5.0",
        "p50 ms": "49.9",
        "p90": "90.0",
        "p99": "100",
        "max": "100",
        "within 100 ms": "90.9 %",
        "errors": "1",
        "server: queue": "2.00",
        "batch": "4.00",
    }


def test_columns_are_there_where_they_have_something_to_say() -> None:
    tally = Tally()
    tally.firsts.add(0.02)
    scaling = Scaling(cast("Any", None), "m", None, (1,))
    streamed = run_of(workers=2, server={}, first_part_ms=tally.figures(1.0, 0.0).first_part_ms)
    session = Session(replace(LOAD, slo_s=None), (8,), scaling=scaling, runs=[streamed, run_of(good=0, workers=4)])
    assert report.heads(session) == [
        *("load", "workers", "requests/s", "p50 ms", "p90", "p99", "max", "first part p50", "p99", "errors"),
    ]
    assert [len(row) for row in report.rows(session)] == [10, 10]
    assert report.rows(session)[0][7] == "20.0"
    assert report.rows(session)[1][3:9] == [""] * 6


def test_notes_say_errors_the_rate_and_what_speaks_against_it(session: Session) -> None:
    warned = replace(run_of("2/s"), warnings=("the load was busy 97% of the time: its limit",))
    session.runs = [warned, replace(warned, name="4/s"), run_of("6/s")]
    session.highest = {None: 120.0, 2: 0.0, 1: 7.5}
    notes = report.notes(session)
    assert notes[0].startswith("2/s: 1 x HTTP 503: <script>")
    assert notes[3:] == [
        "up to 120 requests/s, 99% of them are answered within 100 ms",
        "no rate with 2 workers was found at which 99% of the requests are answered within 100 ms",
        "up to 7.5 requests/s with 1 worker, 99% of them are answered within 100 ms",
        "warning, 2/s, 4/s: the load was busy 97% of the time: its limit",
    ]


def test_the_document_has_everything(session: Session) -> None:
    session.highest = {None: 0.0}
    found = json.loads(json.dumps(report.document(SUBJECT, session), allow_nan=False))
    assert (found["model"], found["slo_ms"], found["interrupted"]) == ("m", 100, False)
    assert found["inputs"] == [{"file": "<a>.png", "bytes": 1234, "content_type": "image/png"}]
    assert found["highest_rates"] == [{"workers": None, "rate": None}]
    (run,) = found["runs"]
    assert run["errors"] == {"HTTP 503": 1}
    assert run["latency_ms"]["max"] == 100
    assert run["server_timing"]["batch"]["mean"] == 4
    assert run["within_slo"] == pytest.approx(10 / 11, rel=1e-4)
    assert len(run["timeline"]) == 2


def test_whether_everything_failed(session: Session) -> None:
    assert report.all_failed(session) is None
    session.runs = [run_of(good=0)]
    assert report.all_failed(session) == session.runs[0].figures
    session.runs = []
    assert report.all_failed(session) is None


def test_what_was_not_kept_is_said(session: Session) -> None:
    session.highest = {}
    assert report.missed(session) == "", "nothing was asked of it"
    session.rates, session.base = (20.0,), replace(session.base, slo_s=0.05)
    session.runs = session.runs[:1]
    share = report.percent(session.runs[0].figures.within_share)
    expected = f"{session.runs[0].name}: {share} of the requests were answered within the SLO, not 99 %"
    assert report.missed(session) == expected
    session.highest = {None: 0.0}
    assert report.missed(session).startswith("no rate was found at which 99% of the requests")
    session.runs = [replace(one, figures=replace(one.figures, good=0)) for one in session.runs]
    assert report.missed(session).startswith("no request got a good answer: ")


def test_a_share_is_whole_only_of_everything() -> None:
    assert (percent(1.0), percent(0.99999), percent(0.5), percent(0.0)) == ("100 %", "99.99 %", "50 %", "0 %")
    assert [number(value) for value in (1234.5, 12.34, 1.234, 0.0)] == ["1234", "12.3", "1.23", "0.00"]


def test_the_page_fetches_nothing_and_runs_nothing(session: Session) -> None:
    session.runs.append(replace(run_of(good=0), name=HOSTILE))
    page = html(SUBJECT, session, "today")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    assert "<script" not in page
    assert "&lt;script&gt;" in page
    assert "&lt;a&gt;.png" in page
    assert not re.search(r"(?:src|href|url|style)\s*[=(]|@import|https?://(?!h:1)", page.replace(policy, ""))


def test_the_page_draws_how_each_load_went(session: Session) -> None:
    page = html(SUBJECT, session, "today")
    drawings = [ET.fromstring(text) for text in re.findall(r"<svg.*?</svg>", page, re.DOTALL)]
    assert [len(one.findall("path[@d]")) for one in drawings] == [3 + 1, 3 + 2]
    assert len(drawings[0].findall("circle")) == 1
    for one in drawings:
        for path in one.findall("path"):
            assert all(0 <= float(value) <= 900 for value in re.findall(r"[\d.]+", path.get("d", "")))
