"""The results as one SVG: bars, written by hand, so that no plotting library is needed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

from benchmarks.serving_bench.report import number
from benchmarks.serving_bench.results import Results
from benchmarks.serving_bench.targets import LIMIT_BATCH, SCALED

PALETTE = ("#9aa0a6", "#4f6d8f", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#7b5ea7", "#332288", "#999933")
_FONT = "font-family='system-ui, sans-serif'"
_WIDTH, _HEIGHT = 560, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 40, 34
_ROW = 22  # of the legend
_TICKS = 5


@dataclass(frozen=True)
class Panel:
    """Grouped bars over one scale from 0.

    Attributes:
        groups: names along the axis.
        series: names of the bars of a group.
        values: a row for each series with a value a group; None leaves a gap.
        line: a dashed line across, with its text.
    """

    title: str
    groups: Sequence[str]
    series: Sequence[str]
    values: Sequence[Sequence[float | None]]
    line: tuple[float, str] | None = None


def svg(results: Results) -> str:
    """Draw the chart of a run."""
    labels = [contender.label for contender in results.contenders]
    return render(list(panels(results)), labels)


def panels(results: Results) -> Iterator[Panel]:
    """Yield one panel for the requests a second of each workload, then starting, scaling and memory."""
    labels = [contender.label for contender in results.contenders]
    connections = [f"{count} connection{'s' if count > 1 else ''}" for count in results.connections]
    for workload in results.titles if results.loads else ():
        limit = results.limit(workload, LIMIT_BATCH)
        rates = [
            [results.load(workload, each, count, "rps") for count in results.connections] for each in results.contenders
        ]
        most = max((rate for row in rates for rate in row if rate), default=0.0)
        # Without a model the handler alone is faster by orders of magnitude; the bars would vanish below that line.
        line = (limit, f"without a server, batch {LIMIT_BATCH}") if limit and limit < 4 * most else None
        yield Panel(f"{workload}: requests per second", connections, labels, rates, line)
    many = results.scale_to
    seconds = (("ready_s", "start to READY"), ("scale_s", f"1 to {many} workers"))
    memory = (("memory_one_mb", "1 worker"), ("memory_many_mb", f"{many} workers"))
    for title, figures in ((f"{SCALED}: seconds", seconds), (f"{SCALED}: PSS of the backend, MB", memory)):
        rows = [[results.life(each, name) for name, _ in figures] for each in results.contenders]
        if any(value is not None for row in rows for value in row):
            yield Panel(title, [text for _, text in figures], labels, rows)


def render(shown: Sequence[Panel], labels: Sequence[str], columns: int = 2) -> str:
    """Draw panels in a grid below a legend."""
    columns = min(columns, max(1, len(shown)))
    legend = _ROW * len(labels) + 12
    width, height = columns * _WIDTH, legend + math.ceil(len(shown) / columns) * _HEIGHT
    parts = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' {_FONT} font-size='12' fill='#222'>",
        f"<rect width='{width}' height='{height}' fill='#fff'/>",
    ]
    for index, label in enumerate(labels):
        y = 8 + index * _ROW
        parts.append(f"<rect x='{_LEFT}' y='{y}' width='14' height='14' fill='{_colour(index)}'/>")
        parts.append(f"<text x='{_LEFT + 22}' y='{y + 11.5}'>{escape(label)}</text>")
    for index, panel in enumerate(shown):
        x, y = index % columns * _WIDTH, legend + index // columns * _HEIGHT
        parts += [f"<g transform='translate({x} {y})'>", *_panel(panel), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel) -> Iterator[str]:
    """Draw one panel, its upper left corner at the origin."""
    values = [value for row in panel.values for value in row if value is not None]
    step, top = scale(max([*values, panel.line[0] if panel.line else 0.0], default=0.0))
    floor, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT

    def height(value: float) -> float:
        return round(value / top * (floor - _TOP), 1)

    yield f"<text x='{_LEFT}' y='18' font-size='14' font-weight='600'>{escape(panel.title)}</text>"
    for tick in range(round(top / step) + 1):
        y = floor - height(tick * step)
        yield f"<path d='M{_LEFT} {y}H{right}' stroke='#ddd'/>"
        yield f"<text x='{_LEFT - 6}' y='{y + 4}' text-anchor='end' fill='#666'>{tick * step:,g}</text>"
    group_width = (right - _LEFT) / max(1, len(panel.groups))
    bar = group_width * 0.84 / max(1, len(panel.series))
    for place, group in enumerate(panel.groups):
        begin = _LEFT + place * group_width
        yield f"<text x='{begin + group_width / 2:.1f}' y='{floor + 18}' text-anchor='middle'>{escape(group)}</text>"
        for index, row in enumerate(panel.values):
            value = row[place]
            if value is None:
                continue
            x = begin + group_width * 0.08 + index * bar
            name = f"{panel.series[index]}, {group}: {number(value)}"
            size = f"width='{bar - 2:.1f}' height='{height(value)}'"
            yield f"<rect x='{x:.1f}' y='{floor - height(value):.1f}' {size} fill='{_colour(index)}'>"
            yield f"<title>{escape(name)}</title></rect>"
            middle, above = x + bar / 2 - 1, floor - height(value) - 4
            yield f"<text x='{middle:.1f}' y='{above:.1f}' font-size='9' text-anchor='middle'>{brief(value)}</text>"
    if panel.line:
        y = floor - height(panel.line[0])
        yield f"<path d='M{_LEFT} {y}H{right}' stroke='#b00' stroke-dasharray='5 4'/>"
        yield f"<text x='{right}' y='{y - 5}' text-anchor='end' fill='#b00'>{escape(panel.line[1])}</text>"


def scale(most: float) -> tuple[float, float]:
    """Return the step of the ticks, 1, 2 or 5 times a power of ten, and the end of the scale."""
    if most <= 0:
        return 1.0, 1.0
    rough = most / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(times * power for times in (1, 2, 5, 10) if times * power >= rough * (1 - 1e-9))
    # Some room above the highest bar for its number.
    return step, step * math.ceil(most * 1.04 / step)


def brief(value: float) -> str:
    """Format a number that fits above a bar."""
    if value >= 10_000:
        return f"{value / 1000:.0f}k"
    if value >= 1_000:
        return f"{value / 1000:.1f}k"
    return number(value)


def _colour(index: int) -> str:
    return PALETTE[index % len(PALETTE)]
