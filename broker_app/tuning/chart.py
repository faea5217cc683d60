"""SVG chart of the measured curves, drawn without a plotting library and readable on light and dark pages."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from broker_app.tuning.measurement import Measurement
    from broker_app.tuning.recommendation import PoolResult
    from broker_app.tuning.sweep import TuningResult

WIDTH, HEIGHT = 900, 630
_LEFT, _RIGHT = 76, 168
_TOP, _PANEL, _GAP = 86, 286, 44
_BOTTOM = 56
_LATENCY_PANEL = HEIGHT - _TOP - _PANEL - _GAP - _BOTTOM
_STEPS = 60
_LABEL = 48
_COLOURS = ("a", "b", "c", "d")

_STYLE = """
  .page { fill: #ffffff } .text { fill: #24292f } .quiet { fill: #57606a } .grid { stroke: #d8dee4 }
  .axis { stroke: #57606a } .ideal { stroke: #8c959f }
  .a .line, .a .law, .a .bar, .a .knee { stroke: #0969da } .a .dot, .a .name { fill: #0969da }
  .b .line, .b .law, .b .bar, .b .knee { stroke: #bc4c00 } .b .dot, .b .name { fill: #bc4c00 }
  .c .line, .c .law, .c .bar, .c .knee { stroke: #1a7f37 } .c .dot, .c .name { fill: #1a7f37 }
  .d .line, .d .law, .d .bar, .d .knee { stroke: #8250df } .d .dot, .d .name { fill: #8250df }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } .text { fill: #e6edf3 } .quiet { fill: #9198a1 } .grid { stroke: #2a3038 }
    .axis { stroke: #9198a1 } .ideal { stroke: #6e7681 }
    .a .line, .a .law, .a .bar, .a .knee { stroke: #58a6ff } .a .dot, .a .name { fill: #58a6ff }
    .b .line, .b .law, .b .bar, .b .knee { stroke: #f0883e } .b .dot, .b .name { fill: #f0883e }
    .c .line, .c .law, .c .bar, .c .knee { stroke: #3fb950 } .c .dot, .c .name { fill: #3fb950 }
    .d .line, .d .law, .d .bar, .d .knee { stroke: #bc8cff } .d .dot, .d .name { fill: #bc8cff }
  }
  text { font: 13px system-ui, sans-serif } .title { font-size: 17px; font-weight: 600 } .small { font-size: 12px }
  .line { fill: none; stroke-width: 2.2 } .law { fill: none; stroke-width: 1.4; stroke-dasharray: 2 4 }
  .bar { stroke-width: 1.4 } .knee { fill: none; stroke-width: 2 } .name { font-weight: 600 }
"""


@dataclass(frozen=True, slots=True)
class _Panel:
    """One panel of the chart, with the scales of its axes."""

    top: float
    height: float
    slots: int
    highest: float

    def x(self, slots: float) -> float:
        """Return the x coordinate of a slot count, on a logarithmic scale."""
        span = math.log2(max(2, self.slots))
        return _LEFT + math.log2(slots) / span * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        """Return the y coordinate of a value, clipped at the highest."""
        return self.top + self.height * (1 - min(value, self.highest) / self.highest)


def draw(tuning: TuningResult) -> str:
    """Return a chart of throughput and run time over the number of slots, with a curve for each pool."""
    points = [point for result in tuning.results for point in result.points.values()]
    slots = max(point.slots for point in points)
    above = _Panel(_TOP, _PANEL, slots, _round_up(max(point.throughput for point in points) * 1.04))
    longest = _round_up(max(point.run.p95 for point in points) * 1040)
    below = _Panel(_TOP + _PANEL + _GAP, _LATENCY_PANEL, slots, longest)
    parts = [
        *_frame(above, "tasks a second"),
        *_frame(below, "run time, p50 and p95, ms"),
        *_slot_labels(below, {point.slots for point in points}),
        *_ideal(above, tuning.results),
    ]
    for colour, result in zip(_cycle(_COLOURS, len(tuning.results)), tuning.results, strict=True):
        parts += [f'<g class="{colour}">', *_curve(above, result, tuning.recommendation.point)]
        parts += [*_times(below, result), "</g>"]
    parts += _names(above, tuning.results)
    return _page(f"Queue {tuning.plan.queue}: {tuning.plan.load}", _subtitle(tuning), parts)


def _page(title: str, subtitle: str, parts: Iterable[str]) -> str:
    shown = title if len(title) <= 76 else f"{title[:75]}…"  # noqa: PLR2004 - width of the chart
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{HEIGHT}"/>',
        _text(_LEFT, 28, shown, "title text"),
        _text(_LEFT, 50, subtitle, "quiet"),
    ]
    return "\n".join([*head, *parts, "</svg>", ""])


def _subtitle(tuning: TuningResult) -> str:
    point = tuning.recommendation.point
    if point is None:
        return "nothing is recommended: the figures are too uncertain"
    return f"recommended: {point.pool} -c {point.slots}, {point.throughput:,.0f} tasks a second"


def _frame(panel: _Panel, label: str) -> list[str]:
    """Return the grid of a panel, with its axis label and tick values."""
    right = WIDTH - _RIGHT
    parts = [_text(_LEFT, panel.top - 8, label, "quiet")]
    for value in _ticks(panel.highest):
        y = panel.y(value)
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(_text(_LEFT - 8, y + 4, f"{value:,g}", "quiet small", anchor="end"))
    bottom = panel.top + panel.height
    parts.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom:.1f}" y2="{bottom:.1f}"/>')
    return parts


def _slot_labels(panel: _Panel, measured: Iterable[int]) -> list[str]:
    """Return the slot counts below the lower panel: the doublings and the last one."""
    bottom = panel.top + panel.height
    shown = [number for number in sorted(measured) if number & (number - 1) == 0 or number == panel.slots]
    parts = [_text(panel.x(number), bottom + 18, str(number), "text small", anchor="middle") for number in shown]
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    return [*parts, _text(middle, bottom + 40, "slots (-c)", "quiet", anchor="middle")]


def _ideal(panel: _Panel, results: Sequence[PoolResult]) -> list[str]:
    """Return the line of ideal scaling: the best throughput per slot times the number of slots."""
    rate = max(result.points[min(result.points)].throughput / min(result.points) for result in results)
    ends = _path(panel, lambda slots: rate * slots, min(panel.slots, panel.highest / rate))
    return [f'<path class="ideal" fill="none" stroke-dasharray="6 5" d="{ends}"/>']


def _curve(panel: _Panel, result: PoolResult, recommended: Measurement | None) -> list[str]:
    points = list(result.points.values())
    most = points[-1].slots
    parts = [f'<path class="law" d="{_path(panel, result.law.throughput, most)}"/>'] if most > 1 else []
    parts.append(f'<path class="line" d="{_polyline(panel, [(p.slots, p.throughput) for p in points])}"/>')
    for point in points:
        x, y = panel.x(point.slots), panel.y(point.throughput)
        spread = point.throughput * min(point.error, 1.0)
        low, high = panel.y(max(0.0, point.throughput - spread)), panel.y(point.throughput + spread)
        parts.append(f'<line class="bar" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="3.4"/>')
        if point is recommended:
            parts.append(f'<circle class="knee" cx="{x:.1f}" cy="{y:.1f}" r="8"/>')
            is_at_the_edge = x > WIDTH - _RIGHT - _LABEL / 2
            parts.append(
                _text(x + 8, y - 14, f"-c {point.slots}", "name", anchor="end")
                if is_at_the_edge  # the legend is right of it
                else _text(x, y - 14, f"-c {point.slots}", "name", anchor="middle")
            )
    return parts


def _times(panel: _Panel, result: PoolResult) -> list[str]:
    """Return the median run time as a line, with bars up to the p95."""
    points = list(result.points.values())
    parts = [f'<path class="line" d="{_polyline(panel, [(p.slots, 1000 * p.run.p50) for p in points])}"/>']
    for point in points:
        x, low, high = panel.x(point.slots), panel.y(1000 * point.run.p50), panel.y(1000 * point.run.p95)
        parts.append(f'<line class="bar" x1="{x:.1f}" x2="{x:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
        parts.append(f'<line class="bar" x1="{x - 4:.1f}" x2="{x + 4:.1f}" y1="{high:.1f}" y2="{high:.1f}"/>')
        parts.append(f'<circle class="dot" cx="{x:.1f}" cy="{low:.1f}" r="2.6"/>')
    return parts


def _names(panel: _Panel, results: Sequence[PoolResult]) -> list[str]:
    """Return the legend at the right."""
    x, y = WIDTH - _RIGHT + 20, panel.top + 12.0
    parts = []
    for colour, result in zip(_cycle(_COLOURS, len(results)), results, strict=True):
        parts.append(f'<g class="{colour}"><line class="line" x1="{x}" x2="{x + 22}" y1="{y - 4}" y2="{y - 4}"/>')
        parts.append(f"{_text(x + 30, y, result.pool, 'name')}</g>")
        y += 22
    lines = (("law", "fitted law"), ("ideal", "ideal: one slot, times c"))
    for kind, words in lines:
        dash = ' stroke-dasharray="6 5"' if kind == "ideal" else ""
        parts.append(
            f'<g class="a"><line class="{kind}"{dash} x1="{x}" x2="{x + 22}" y1="{y - 4}" y2="{y - 4}"/>'
            f"{_text(x + 30, y, words.split(':')[0], 'quiet small')}</g>"
        )
        y += 20
    parts.append(_text(x, y + 4, "bars: 95 % interval;", "quiet small"))
    parts.append(_text(x, y + 20, "below: up to p95", "quiet small"))
    return parts


def _path(panel: _Panel, function: Callable[[float], float], most: float) -> str:
    """Return a curve from one slot to ``most``."""
    steps = (most ** (step / _STEPS) for step in range(_STEPS + 1))
    return _polyline(panel, [(slots, function(slots)) for slots in steps])


def _polyline(panel: _Panel, values: Sequence[tuple[float, float]]) -> str:
    return "M" + " L".join(f"{panel.x(slots):.1f} {panel.y(value):.1f}" for slots, value in values)


def _text(x: float, y: float, words: str, kind: str, *, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _ticks(highest: float) -> list[float]:
    """Return four to six round values from 0 to the highest."""
    step = _round_up(highest / 5)
    return [step * number for number in range(int(highest / step + 1e-9) + 1)]


def _round_up(value: float) -> float:
    """Return the next number of the kind 1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return next(
        power * digit for digit in (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10) if value <= power * digit * (1 + 1e-9)
    )


def _cycle(values: Sequence[str], count: int) -> list[str]:
    return [values[number % len(values)] for number in range(count)]
