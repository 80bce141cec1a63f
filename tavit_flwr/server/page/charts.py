"""Line charts and stacked bars as inline SVG; colours come from the page's style sheet, names are escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from markupsafe import Markup, escape

#: Classes ``c0`` .. of the style sheet; then they repeat, with the legend's order to tell them apart.
COLOURS = 8

#: Small, so that 12 pixels of text are about as many on a phone.
_WIDTH, _HEIGHT = 440, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 14, 26, 44

#: So many values of a line are read out; of longer ones the first, the last and the extremes.
_SPOKEN = 8


@dataclass(frozen=True)
class Series:
    """One line of a chart.

    Attributes
    ----------
    name : str
        For the legend.
    points : sequence of (float, float)
        In the order of x.
    marks : sequence of str
        ``cross`` or ``dot``, one a point; empty for none.
    """

    name: str
    points: Sequence[tuple[float, float]]
    marks: Sequence[str] = field(default_factory=tuple)


def lines(series: Sequence[Series], *, title: str, x_label: str, y_label: str, log: bool = False) -> Markup:
    """Draw lines over common axes.

    Parameters
    ----------
    series : sequence of Series
        Values must be finite; with `log`, above zero.
    title : str
        Begins the alternative text; the values follow.
    log : bool
        Logarithmic y axis.
    """
    shown = [one for one in series if one.points]
    if not shown:
        return Markup('<p class="none">Nothing yet.</p>')
    x_ticks = _ticks([x for one in shown for x, _ in one.points])
    values = [math.log10(y) if log else y for one in shown for _, y in one.points]
    y_ticks = _ticks(values)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])
        up = ((math.log10(y) if log else y) - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])
        wide, high = _WIDTH - _LEFT - _RIGHT, _HEIGHT - _TOP - _BOTTOM
        return round(_LEFT + across * wide, 1), round(_HEIGHT - _BOTTOM - up * high, 1)

    parts = [_open(title, "; ".join(map(_spoken, shown))), _axes(x_ticks, y_ticks, x_label, y_label, log=log)]
    for number, one in enumerate(shown):
        placed = [place(x, y) for x, y in one.points]
        path = " ".join(f"{x},{y}" for x, y in placed)
        parts.append(f'<g class="c{number % COLOURS}"><title>{escape(one.name)}</title><polyline points="{path}"/>')
        parts += [_mark(mark, x, y) for mark, (x, y) in zip(one.marks, placed, strict=False)]
        parts.append("</g>")
    return Markup("".join(parts) + "</svg>" + legend([one.name for one in shown]))


def bars(rows: Sequence[tuple[str, Sequence[float]]], parts_names: Sequence[str], *, title: str, unit: str) -> Markup:
    """Draw one stacked horizontal bar a row."""
    longest = max((sum(values) for _, values in rows), default=0)
    if longest <= 0:
        return Markup('<p class="none">Nothing yet.</p>')
    left, high = 110, 26
    spoken = [
        f"{name}: " + ", ".join(f"{part} {_number(value)}" for part, value in zip(parts_names, values, strict=True))
        for name, values in rows
    ]
    parts = [_open(f"{title}, {unit}", "; ".join(spoken), len(rows) * high + 8)]
    for number, (name, values) in enumerate(rows):
        top, x = number * high + 4, float(left)
        parts.append(f'<text class="end" x="{left - 8}" y="{top + 15}">{escape(name)}</text>')
        for colour, (part, value) in enumerate(zip(parts_names, values, strict=True)):
            wide = (_WIDTH - left - 90) * value / longest
            parts.append(
                f'<rect class="f{colour % COLOURS}" x="{x:.1f}" y="{top}" width="{wide:.1f}" height="20">'
                f"<title>{escape(part)}: {_number(value)} {escape(unit)}</title></rect>"
            )
            x += wide
        parts.append(f'<text x="{x + 6:.1f}" y="{top + 15}">{_number(sum(values))} {escape(unit)}</text>')
    return Markup("".join(parts) + "</svg>" + legend(parts_names))


def legend(names: Sequence[str]) -> str:
    """Names beside their colours."""
    items = [f'<li><span class="f{number % COLOURS}"></span>{escape(name)}</li>' for number, name in enumerate(names)]
    return f'<ul class="legend">{"".join(items)}</ul>'


def _open(title: str, values: str, height: int = _HEIGHT) -> str:
    return (
        f'<svg role="img" aria-label="{escape(title)}. {escape(values)}" viewBox="0 0 {_WIDTH} {height}">'
        f"<title>{escape(title)}</title>"
    )


def _spoken(one: Series) -> str:
    """A line's values in words."""
    points = list(one.points)
    if len(points) > _SPOKEN:
        low, high = (pick(points, key=lambda point: point[1]) for pick in (min, max))
        points = list(dict.fromkeys(sorted((points[0], low, high, points[-1]))))
    return f"{one.name}: " + ", ".join(f"{y:.4g} at {x:g}" for x, y in points)


def _axes(x_ticks: Sequence[float], y_ticks: Sequence[float], x_label: str, y_label: str, *, log: bool) -> str:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = ['<g class="axes">']
    for tick in y_ticks:
        y = bottom - (tick - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (bottom - _TOP)
        text = _number(10**tick) if log else _number(tick)
        parts.append(f'<line x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="end" x="{_LEFT - 6}" y="{y + 4:.1f}">{text}</text>')
    for tick in x_ticks:
        x = _LEFT + (tick - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (right - _LEFT)
        parts.append(f'<text class="middle" x="{x:.1f}" y="{bottom + 18}">{_number(tick)}</text>')
    parts.append(f'<text class="middle" x="{(_LEFT + right) / 2}" y="{_HEIGHT - 6}">{escape(x_label)}</text>')
    parts.append(f'<text class="end" x="{_LEFT - 6}" y="12">{escape(y_label)}</text></g>')
    return "".join(parts)


def _mark(mark: str, x: float, y: float) -> str:
    if mark == "cross":
        return f'<path d="M{x - 4},{y - 4}l8,8m0,-8l-8,8"/>'
    return f'<circle cx="{x}" cy="{y}" r="4"/>'


def _ticks(values: Sequence[float], count: int = 5) -> list[float]:
    """Round numbers that enclose the values, about `count` of them."""
    low, high = min(values), max(values)
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    raw = (high - low) / count
    power = 10 ** math.floor(math.log10(raw))
    step = next(power * nice for nice in (1, 2, 2.5, 5, 10) if power * nice >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [tick * step for tick in range(first, last + 1)]


def _number(value: float) -> str:
    if value and (abs(value) >= 1e6 or abs(value) < 1e-3):
        return f"{value:.1e}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
