"""Line charts as inline SVG: no script, no image, colours from the page's style sheet.

A chart is drawn in user units of its ``viewBox`` and scales with the page. Lines differ in colour
and in dash pattern, so that they can be told apart without colour.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

MARGIN_LEFT, MARGIN_RIGHT, MARGIN_TOP, MARGIN_BOTTOM = 54.0, 14.0, 14.0, 46.0
MAXIMUM_POINTS = 240
TICK_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True)
class Axis:
    """A linear axis: its label, its ends, its ticks and how many decimals they show."""

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    digits: int


@dataclass(frozen=True)
class Line:
    """One series. ``style`` is a class of the style sheet: ``ours``, ``warm``, ``other-1`` to 6.

    ``weights`` (in [0, 1], one a point) draws discs of that area at the points.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    style: str = "ours"
    weights: Sequence[float] | None = None


@dataclass(frozen=True)
class Rule:
    """A dashed reference: the diagonal from corner to corner, or a level with its label."""

    level: float | None = None
    label: str = ""


@dataclass(frozen=True)
class Frame:
    """Where the plot's area lies, and how a value becomes a position in it."""

    x: Axis
    y: Axis
    width: float
    height: float

    def place(self, x: float, y: float) -> tuple[float, float]:
        """Position in user units; values outside the axes are drawn at their edge."""
        across = (min(max(x, self.x.low), self.x.high) - self.x.low) / (self.x.high - self.x.low)
        up = (min(max(y, self.y.low), self.y.high) - self.y.low) / (self.y.high - self.y.low)
        inner_width = self.width - MARGIN_LEFT - MARGIN_RIGHT
        inner_height = self.height - MARGIN_TOP - MARGIN_BOTTOM
        return MARGIN_LEFT + across * inner_width, MARGIN_TOP + (1.0 - up) * inner_height


def axis(
    label: str, values: Iterable[float], *, low: float | None = None, high: float | None = None
) -> Axis:
    """An axis over the finite ``values`` with round ticks; ``low`` and ``high`` fix an end."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    bottom = min(finite) if low is None else low
    top = max(finite) if high is None else high
    if not top > bottom:
        top = bottom + (abs(bottom) or 1.0)
    raw = (top - bottom) / 5.0
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in TICK_STEPS if m * magnitude >= raw * 0.999)
    bottom = math.floor(bottom / step + 1e-9) * step if low is None else low
    top = math.ceil(top / step - 1e-9) * step if high is None else high
    first, last = math.ceil(bottom / step - 1e-9), math.floor(top / step + 1e-9)
    ticks = tuple(index * step for index in range(first, last + 1))
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    if abs(step * 10.0**digits - round(step * 10.0**digits)) > 1e-6:
        digits += 1
    return Axis(label, bottom, top, ticks, digits)


def line_chart(
    identity: str,
    description: str,
    x: Axis,
    y: Axis,
    lines: Sequence[Line],
    *,
    rule: Rule | None = None,
    diagonal: bool = False,
    size: tuple[float, float] = (400.0, 280.0),
) -> Markup:
    """One chart as an ``<svg>`` element.

    Args:
        identity: unique in the page; names the element's description.
        description: the alternative text, which says what the chart shows.
        x: horizontal axis.
        y: vertical axis.
        lines: drawn in order, the last on top.
        rule: a level to compare with.
        diagonal: draw the line from corner to corner.
        size: width and height in user units.
    """
    frame = Frame(x, y, *size)
    parts = [_grid(frame)]
    if diagonal:
        parts.append(_segment(frame, (x.low, y.low), (x.high, y.high)))
    if rule is not None and rule.level is not None:
        parts.append(_level(frame, rule.level, rule.label))
    parts.extend(_series(frame, line) for line in lines)
    return Markup(
        '<svg class="chart" viewBox="0 0 {0:g} {1:g}" role="img" aria-labelledby="{2}">'
        '<desc id="{2}">{3}</desc>{4}</svg>'
    ).format(size[0], size[1], identity, description, Markup("").join(parts))


def swatch(style: str) -> Markup:
    """A short sample of a line's style, for a legend."""
    return Markup(
        '<svg class="swatch" viewBox="0 0 30 8" aria-hidden="true">'
        '<path class="line {}" d="M1 4H29"/></svg>'
    ).format(style)


def _grid(frame: Frame) -> Markup:
    left, bottom = frame.place(frame.x.low, frame.y.low)
    right, top = frame.place(frame.x.high, frame.y.high)
    parts: list[Markup] = []
    for value in frame.y.ticks:
        level = frame.place(frame.x.low, value)[1]
        parts.append(
            Markup(
                '<path class="grid" d="M{0:.1f} {1:.1f}H{2:.1f}"/>'
                '<text class="tick" x="{3:.1f}" y="{4:.1f}" text-anchor="end">{5}</text>'
            ).format(left, level, right, left - 8, level + 4, f"{value:.{frame.y.digits}f}")
        )
    for value in frame.x.ticks:
        across = frame.place(value, frame.y.low)[0]
        parts.append(
            Markup(
                '<path class="stroke" d="M{0:.1f} {1:.1f}v5"/>'
                '<text class="tick" x="{0:.1f}" y="{2:.1f}" text-anchor="middle">{3}</text>'
            ).format(across, bottom, bottom + 19, f"{value:.{frame.x.digits}f}")
        )
    middle = (top + bottom) / 2
    parts.append(
        Markup(
            '<path class="stroke" d="M{0:.1f} {1:.1f}H{2:.1f}"/>'
            '<text class="label" x="{3:.1f}" y="{4:.1f}" text-anchor="middle">{5}</text>'
            '<text class="label" transform="translate(13 {6:.1f}) rotate(-90)" '
            'text-anchor="middle">{7}</text>'
        ).format(
            left,
            bottom,
            right,
            (left + right) / 2,
            bottom + 39,
            frame.x.label,
            middle,
            frame.y.label,
        )
    )
    return Markup("").join(parts)


def _segment(frame: Frame, start: tuple[float, float], end: tuple[float, float]) -> Markup:
    (x1, y1), (x2, y2) = frame.place(*start), frame.place(*end)
    return Markup('<path class="rule" d="M{:.1f} {:.1f}L{:.1f} {:.1f}"/>').format(x1, y1, x2, y2)


def _level(frame: Frame, level: float, label: str) -> Markup:
    segment = _segment(frame, (frame.x.low, level), (frame.x.high, level))
    x, y = frame.place(frame.x.low, level)
    return segment + Markup('<text class="note" x="{:.1f}" y="{:.1f}">{}</text>').format(
        x + 6, y - 6, label
    )


def _series(frame: Frame, line: Line) -> Markup:
    points = [
        (x, y) for x, y in zip(line.x, line.y, strict=True) if math.isfinite(x) and math.isfinite(y)
    ]
    stride = max(1, math.ceil(len(points) / MAXIMUM_POINTS))
    kept = points[::stride] + (points[-1:] if (len(points) - 1) % stride else [])
    path = " ".join("{:.1f} {:.1f}".format(*frame.place(x, y)) for x, y in kept)
    # the name is the browser's tooltip
    drawn = Markup('<path class="line {}" d="M{}"><title>{}</title></path>').format(
        line.style, path, line.name
    )
    if not kept:
        return Markup("")
    return drawn + (_discs(frame, line) if line.weights is not None else Markup(""))


def _discs(frame: Frame, line: Line) -> Markup:
    weights = line.weights or ()
    parts = [
        Markup('<circle class="disc {}" cx="{:.1f}" cy="{:.1f}" r="{:.1f}"/>').format(
            line.style, *frame.place(x, y), 3.0 + 9.0 * math.sqrt(max(weight, 0.0))
        )
        for x, y, weight in zip(line.x, line.y, weights, strict=True)
        if all(map(math.isfinite, (x, y, weight)))
    ]
    return Markup("").join(parts)
