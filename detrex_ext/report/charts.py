"""Charts as inline SVG, with their legends below as text, where nothing can overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .html import Html, el

COLORS = (*("#0b62a8", "#d1495b", "#2e7d32", "#e08e0b", "#6a4c93", "#00838f", "#8d6e63", "#ad1457"), "#546e7a")
_WIDE, _HIGH = 350, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 36
_MOST_POINTS = 400


@dataclass(frozen=True)
class Curve:
    """Points to be joined by a line, or, as ``dots``, not.

    Attributes:
        label: in the legend.
        points: (x, y), finite.
        dots: they are not joined.
        color: of ``COLORS`` by its place where None.
    """

    label: str
    points: Sequence[tuple[float, float]]
    dots: bool = False
    color: str | None = None


@dataclass(frozen=True)
class Axis:
    """An axis: its name, and its ends where they are not those of the points; ``log`` where all values are above 0."""

    name: str
    low: float | None = None
    high: float | None = None
    log: bool = False


def chart(title: str, curves: Sequence[Curve], x: Axis, y: Axis) -> Html:
    """A chart of its curves; "" where there is no point."""
    curves = [curve for curve in curves if curve.points]
    if not curves:
        return Html("")
    points = [point for curve in curves for point in curve.points]
    across, up = _Scale(x, [p[0] for p in points], _LEFT, _WIDE - _RIGHT), _Scale(
        y, [p[1] for p in points], _HIGH - _BOTTOM, _TOP
    )
    inside = [*_grid(across, up)]
    for number, curve in enumerate(curves):
        color = curve.color or COLORS[number % len(COLORS)]
        places = [(across(a), up(b)) for a, b in thinned(curve.points)]
        if curve.dots or len(places) == 1:
            inside += [el("circle", cx=f"{a:.1f}", cy=f"{b:.1f}", r=2.5, fill=color, fill_opacity=0.6)
                       for a, b in places]  # fmt: skip
        else:
            line = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
            inside.append(el("polyline", points=line, fill="none", stroke=color, stroke_width=1.8))
    svg = el("svg", *inside, viewBox=f"0 0 {_WIDE} {_HIGH}", width=_WIDE, height=_HIGH, role="img")
    keys = [el("span", el("i", style=f"background:{c.color or COLORS[i % len(COLORS)]}"), c.label)
            for i, c in enumerate(curves)]  # fmt: skip
    legend = el("div", *keys, class_="legend", style=f"max-width:{_WIDE}px") if len(curves) > 1 else Html("")
    return el("figure", el("h3", title), svg, legend)


def thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """At most so many points, evenly chosen, the last among them."""
    step = -(-len(points) // _MOST_POINTS)
    return points if step <= 1 else [*points[::step], points[-1]]


class _Scale:
    """From values to pixels."""

    def __init__(self, axis: Axis, values: Sequence[float], begin: float, end: float) -> None:
        self.axis, self.begin, self.end = axis, begin, end
        self.log = axis.log and max(values) > 10 * min(values) > 0
        low = min(values) if axis.low is None else axis.low
        high = max(values) if axis.high is None else axis.high
        self.low, self.high = (math.log10(low), math.log10(high)) if self.log else (low, high)
        if not self.high - self.low > 1e-9 * max(abs(self.high), abs(self.low), 1e-30):
            room = abs(self.high) * 0.1 or 1.0
            self.low, self.high = self.low - room, self.high + room

    def __call__(self, value: float) -> float:
        place = math.log10(value) if self.log else value
        share = (place - self.low) / (self.high - self.low)
        return self.begin + min(max(share, 0.0), 1.0) * (self.end - self.begin)

    def ticks(self) -> list[tuple[float, str]]:
        """(pixel, label) of about five round values."""
        if self.log:
            found = [m * 10.0**e for e in range(math.floor(self.low), math.ceil(self.high) + 1) for m in (1, 2, 5)]
            found = [v for v in found if self.low - 1e-9 <= math.log10(v) <= self.high + 1e-9]
            if len(found) > 6:
                tens = [v for v in found if f"{v:e}".startswith("1.0")]
                found = tens[:: -(-len(tens) // 6)] if len(tens) > 1 else found[:: -(-len(found) // 6)]
            found = found or [10.0**self.low, 10.0**self.high]
        else:
            rough = (self.high - self.low) / 5
            unit = 10.0 ** math.floor(math.log10(rough))
            step = next(m * unit for m in (1, 2, 5, 10) if m * unit >= rough * 0.999)
            first = math.ceil(self.low / step - 1e-9)
            found = [step * k for k in range(first, first + 12) if step * k <= self.high + 1e-9 * step]
        return [(self(v), _label(0.0 if abs(v) < 1e-12 * (self.high - self.low) else v)) for v in found]


def _label(value: float) -> str:
    if abs(value) >= 1e4:
        return f"{value:.0e}".replace("e+0", "e") if value % 1000 or abs(value) >= 1e6 else f"{value / 1000:g}k"
    return f"{value:.4g}"


def _grid(across: _Scale, up: _Scale) -> list[Html]:
    bottom, found = _HIGH - _BOTTOM, []
    for place, label in up.ticks():
        found.append(el("line", x1=_LEFT, x2=_WIDE - _RIGHT, y1=f"{place:.1f}", y2=f"{place:.1f}", stroke="#e6ebf0"))
        found.append(el("text", label, x=_LEFT - 5, y=f"{place + 4:.1f}", text_anchor="end"))
    for place, label in across.ticks():
        found.append(el("line", x1=f"{place:.1f}", x2=f"{place:.1f}", y1=_TOP, y2=bottom, stroke="#e6ebf0"))
        found.append(el("text", label, x=f"{place:.1f}", y=bottom + 14, text_anchor="middle"))
    found.append(el("text", across.axis.name, x=(_LEFT + _WIDE) / 2, y=_HIGH - 4, text_anchor="middle"))
    middle = (_TOP + bottom) / 2
    found.append(el("text", up.axis.name, x=12, y=middle, text_anchor="middle", transform=f"rotate(-90 12 {middle})"))
    return found
