"""A load test as one HTML page: no script, nothing fetched, whatever the server's answers say."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from html import escape
from typing import Final

from serving.bench import report
from serving.bench.report import Subject
from serving.bench.session import Run, Session

_STYLE: Final = """
:root { color-scheme: light dark; --ink: #1c2733; --soft: #5b6b7b; --line: #d5dce3; --paper: #fff;
  --one: #1668b8; --two: #c4541a; --three: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6ebf0; --soft: #9fb0bf; --line: #3a4652; --paper: #141a20;
  --one: #6cb2f5; --two: #f0965c; --three: #ff8a80; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 70rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.05rem; margin: 2rem 0 .5rem; } p, figcaption { color: var(--soft); }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th, td { text-align: right; padding: .3rem .45rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } li { overflow-wrap: anywhere; }
figure { margin: 1rem 0; } svg { width: 100%; height: auto; } text { font: 12px system-ui, sans-serif;
  fill: var(--soft); } .axis { stroke: var(--line); } .one { stroke: var(--one); } .two { stroke: var(--two); }
.one, .two { fill: none; stroke-width: 2; } .bad { fill: var(--three); } .name1 { fill: var(--one); }
.name2 { fill: var(--two); }
"""
#: Seconds of a load that are shown as one; fewer are the rest of it.
LEAST_S: Final = 0.5
_WIDTH, _HEIGHT = 900, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 24, 28


def html(subject: Subject, session: Session, when: str) -> str:
    """Return the page."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    inputs = ", ".join(f"{name} ({size:,} bytes, {kind})" for name, size, kind in subject.inputs)
    body = [
        f"<h1>{escape(subject.title)}</h1>",
        f"<p>{escape(when)}; inputs, in turn: {escape(inputs)}</p>",
        *_table(session),
        *_list(report.notes(session)),
        *(part for run in session.runs for part in _section(run)),
        "<p>Milliseconds from the time at which a request was to begin until its answer was there.</p>",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{escape(subject.title)}: load test</title><style>{_STYLE}</style></head>\n<body>"
        + "\n".join(body)
        + "</body></html>\n"
    )


def _table(session: Session) -> Iterator[str]:
    yield '<div class="wide"><table><thead><tr>'
    yield "".join(f'<th scope="col">{escape(head)}</th>' for head in report.heads(session))
    yield "</tr></thead><tbody>"
    for row in report.rows(session):
        yield "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
    yield "</tbody></table></div>"


def _list(lines: Sequence[str]) -> Iterator[str]:
    if lines:
        yield "<ul>" + "".join(f"<li>{escape(line)}</li>" for line in lines) + "</ul>"


def _section(run: Run) -> Iterator[str]:
    """Draw how a load went, second by second."""
    begun = [0.0, *(one.at for one in run.seconds)]
    # The last one is a rest, and may be a moment.
    spans = [(one, one.at - before) for one, before in zip(run.seconds, begun, strict=False)]
    spans = [(one, span) for one, span in spans if span >= LEAST_S]
    if len(spans) < 2:
        return
    workers = f", {run.workers} workers" if run.workers is not None and "workers" not in run.name else ""
    yield f"<h2>{escape(run.name + workers)}</h2>"
    seconds = [one for one, _ in spans]
    ats = [one.at for one in seconds]
    rates = [one.good / span for one, span in spans]
    marks = [one.at for one in seconds if one.errors]
    yield from _figure("good answers a second; a mark where there were errors", ats, [("", rates)], marks, zero=True)
    times = [("p50", [one.p50_ms for one in seconds]), ("p99", [one.p99_ms for one in seconds])]
    yield from _figure("milliseconds, p50 and p99 of each second", ats, times, [], zero=False)


def _figure(
    title: str,
    ats: Sequence[float],
    lines: Sequence[tuple[str, Sequence[float]]],
    marks: Sequence[float],
    *,
    zero: bool,
) -> Iterator[str]:
    """Draw lines over time.

    Args:
        marks: times of errors.
        zero: begin the scale at 0; else it is logarithmic.
    """
    values = [value for _, line in lines for value in line if value > 0]
    if not values:
        return
    low, high = (0.0, max(values)) if zero else (min(values) / 1.2, max(values) * 1.2)
    up: Callable[[float], float] = (lambda value: value) if zero else (lambda value: math.log(max(value, low)))
    bottom, top = up(low), up(high)

    def x(at: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * at / ats[-1]

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (up(value) - bottom) / (top - bottom)

    yield f'<figure><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">'
    for value in (low, high / 2 if zero else math.sqrt(low * high), high):
        at = y(value)
        yield f'<path class="axis" d="M{_LEFT} {at:.1f}H{_WIDTH - _RIGHT}"/>'
        yield f'<text x="{_LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{report.number(value)}</text>'
    yield f'<text x="{_LEFT}" y="{_HEIGHT - 8}">0</text>'
    yield f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 8}" text-anchor="end">{ats[-1]:g} s</text>'
    for index, (name, line) in enumerate(lines):
        kind = ("one", "two")[index]
        path = "L".join(f"{x(at):.1f} {y(value):.1f}" for at, value in zip(ats, line, strict=True))
        yield f'<path class="{kind}" d="M{path}"/>'
        yield f'<text class="name{index + 1}" x="{_LEFT + 4 + 40 * index}" y="14">{escape(name)}</text>'
    for at in marks:
        yield f'<circle class="bad" cx="{x(at):.1f}" cy="{_HEIGHT - _BOTTOM}" r="4"/>'
    yield f"</svg><figcaption>{escape(title)}</figcaption></figure>"
