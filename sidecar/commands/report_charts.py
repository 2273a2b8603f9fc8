"""The charts of the HTML report, as inline SVG: columns of failures over time, and intervals of effects. Pure.

Colours are classes, so that the page's style sheet defines them for light and dark. All text is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from html import escape
from math import ceil
from typing import Final

from sidecar.commands.report_data import Times

WIDTH: Final = 860
_LEFT, _RIGHT = 44, 12
_TOP, _PLOT, _FOOT = 10, 190, 26
_ROW: Final = 34
_WIDEST = 60.0  # widest column
_BAR: Final = 400  # width of an interval's row, which stands beside its label or, on a narrow page, below it
_SAID = 60  # of it, for the figure at its end
_COLOURS = 6
Interval = tuple[float, float, float]
"""Lower end, estimate, upper end; each from −1 to 1."""


def columns(times: Times) -> str:
    """Stacked columns, one colour per series."""
    totals = [sum(each.counts[at] for each in times.series) for at in range(len(times.series[0].counts))]
    top = _round_up(max(totals, default=1))
    step = min(_WIDEST, (WIDTH - _LEFT - _RIGHT) / max(len(totals), 1))
    parts = [*_grid(top), *_time_labels(times, len(totals), step)]
    for at in range(len(totals)):
        height = 0.0
        for number, series in enumerate(times.series):
            part = _PLOT * series.counts[at] / top
            if part:
                height += part
                title = f"{series.name[:120]}: {series.counts[at]}, {_clock(times.start + at * times.width_s)}"
                parts.append(
                    f'<rect class="c{number % _COLOURS}" x="{_LEFT + at * step + step * 0.1:.1f}" '
                    f'y="{_TOP + _PLOT - height:.1f}" width="{step * 0.8:.1f}" height="{part:.1f}">'
                    f"<title>{escape(title)}</title></rect>"
                )
    return _svg(_TOP + _PLOT + _FOOT, "Failures over time, by incident", parts)


def _grid(top: int) -> Iterator[str]:
    for share in (0, 0.5, 1):
        y = _TOP + _PLOT * (1 - share)
        yield f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>'
        yield f'<text class="tick" x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{top * share:g}</text>'


def _time_labels(times: Times, count: int, step: float) -> Iterator[str]:
    every = max(1, -(-count // 6))
    for at in range(0, count, every):
        text = escape(_clock(times.start + at * times.width_s, short=times.width_s))
        y = _TOP + _PLOT + 18
        yield f'<text class="tick" x="{_LEFT + (at + 0.5) * step:.1f}" y="{y}" text-anchor="middle">{text}</text>'


def intervals(rows: Sequence[tuple[str, str, Interval]]) -> str:
    """One row per entry: its (label, class), a dot at the estimate (−1 to 1), and its interval; at last the scale."""
    most = max(abs(end) for _, _, each in rows for end in each)
    reach = min(1.0, max(0.2, ceil(5 * most) / 5))
    middle = half = (_BAR - _SAID) / 2
    half -= 16  # so that the labels of the scale's ends have room
    drawn = [
        f'<span class="label">{escape(label)}</span>{_row(label, _interval(kind, each, (middle, half / reach)))}'
        for label, kind, each in rows
    ]
    drawn.append(f"<span></span>{_row('Scale, in points', _scale(middle, half, reach))}")
    return f'<div class="intervals">{"".join(drawn)}</div>'


def _row(title: str, parts: Iterator[str]) -> str:
    return _svg(_ROW, title, list(parts), _BAR)


def _scale(middle: float, half: float, reach: float) -> Iterator[str]:
    for share in (-1, -0.5, 0, 0.5, 1):
        x = middle + half * share
        yield f'<text class="tick" x="{x:.1f}" y="16" text-anchor="middle">{_points(reach * share)}</text>'


def _interval(kind: str, each: Interval, scale: tuple[float, float]) -> Iterator[str]:
    middle, unit = scale
    y = _ROW / 2
    yield f'<line class="zero" x1="{middle}" x2="{middle}" y1="0" y2="{_ROW}"/>'
    low, value, high = (middle + unit * min(max(end, -1.0), 1.0) for end in each)
    yield f'<line class="{kind} span" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>'
    yield f'<circle class="{kind}" cx="{value:.1f}" cy="{y}" r="5"/>'
    said = "?" if each[0] <= 0 <= each[2] else _points(each[1])
    yield f'<text class="value" x="{_BAR}" y="{y + 4}" text-anchor="end">{said}</text>'


def _svg(height: float, title: str, parts: Sequence[str], width: int = WIDTH) -> str:
    return f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{escape(title)}">{"".join(parts)}</svg>'


def _points(share: float) -> str:
    """*share* in points: `+62`, `−5`, `0`."""
    number = round(100 * share)
    return f"{number:+d}".replace("-", "−") if number else "0"


def _round_up(count: int) -> int:
    """The next of 2, 4, 6, 8, 10, 20, 40 …, so that half of it is whole."""
    size = 1
    while True:
        for factor in (2, 4, 6, 8, 10):
            if count <= factor * size:
                return factor * size
        size *= 10


def _clock(second: int, short: int = 0) -> str:
    """The time in UTC; *short*: only as precise as columns of so many seconds need."""
    at = datetime.fromtimestamp(second, UTC)
    if not short:
        return at.strftime("%Y-%m-%d %H:%M UTC")
    return at.strftime("%d %b" if short >= 86400 else "%d %b %H:%M" if short >= 3600 else "%H:%M")
