"""The report's pictures of numbers: small pure functions from numbers to inline SVG.

Role: line charts, stacked charts and interval marks without any script or outside library.
Input: numbers and words. Output: escaped SVG (``Markup``); colours are CSS classes that the page's style defines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

# A chart is drawn about as large as it is shown (a card is 320-380 px wide), so that its text stays readable.
WIDTH, HEIGHT = 360.0, 176.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 44.0, 10.0, 10.0, 24.0
_GAP_FLOOR = 1e-9  # a logarithmic axis has no 0: smaller values are drawn here

Values = Sequence[float | None]


@dataclass(frozen=True)
class Line:
    """One curve; ``css`` is its colour class, ``low`` and ``high`` an optional band around it."""

    label: str
    css: str
    values: Values
    low: Values | None = None
    high: Values | None = None


@dataclass(frozen=True)
class Axis:
    """A vertical scale: its ends, its ticks, and whether it is logarithmic."""

    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False

    def y(self, value: float) -> float:
        """Pixels from the top of the chart."""
        low, high, at = self.low, self.high, value
        if self.log:
            low, high, at = math.log10(low), math.log10(high), math.log10(max(value, self.low))
        share = (at - low) / (high - low)
        return _TOP + (1.0 - min(max(share, 0.0), 1.0)) * (HEIGHT - _TOP - _BOTTOM)


def number(value: float | None) -> str:
    """A number for people: three digits that matter, thousands separated, tiny ones as powers of ten."""
    if value is None:
        return "–"
    size = abs(value)
    if value == 0.0:
        return "0"
    if size < 1e-3:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa}e{int(exponent)}".replace("-", "−")
    if size >= 1000.0:
        text = f"{value:,.0f}"
    elif size >= 100.0:
        text = f"{value:.0f}" if float(value).is_integer() else f"{value:.1f}"
    elif float(value).is_integer():
        text = f"{value:.0f}"
    else:
        text = f"{value:.2f}" if size >= 1.0 else f"{value:.3f}"
    return text.replace("-", "−")


def linear_axis(low: float, high: float, *, floor: float | None = None) -> Axis:
    """An axis with 3 to 6 round ticks that holds ``[low, high]``.

    Args:
        floor: the axis starts here at the highest, e.g. 0 for durations.
    """
    if floor is not None:
        low = min(low, floor)
    if high <= low:
        margin = abs(low) * 0.1 or 1.0
        low, high = (low, high + margin) if floor is not None else (low - margin, high + margin)
    raw = (high - low) / 4.0
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(m * power for m in (1.0, 2.0, 2.5, 5.0, 10.0) if m * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(i * step, 12) for i in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], ticks)


def _tick_texts(axis: Axis) -> list[str]:
    """The ticks' labels: powers of ten, or all with as many decimals as their distance needs."""
    if axis.log:
        return [f"1e{round(math.log10(tick))}".replace("-", "−") for tick in axis.ticks]
    step = axis.ticks[1] - axis.ticks[0]
    decimals = next((d for d in range(12) if abs(round(step, d) - step) < step * 1e-6), 12)
    return ["0" if tick == 0.0 else f"{tick:,.{decimals}f}".replace("-", "−") for tick in axis.ticks]


def log_axis(low: float, high: float) -> Axis:
    """A logarithmic axis over whole decades that holds ``[low, high]``."""
    first = math.floor(math.log10(max(low, _GAP_FLOOR)) + 1e-9)
    last = max(first + 1, math.ceil(math.log10(max(high, _GAP_FLOOR)) - 1e-9))
    stride = max(1, math.ceil((last - first) / 5))
    ticks = tuple(10.0**power for power in range(first, last + 1, stride))
    return Axis(10.0**first, 10.0**last, ticks, log=True)


def _x(index: int, count: int) -> float:
    inner = WIDTH - _LEFT - _RIGHT
    return _LEFT + (inner / 2.0 if count == 1 else inner * index / (count - 1))


def _point(x: float, y: float) -> str:
    return f"{x:.1f},{y:.1f}"


def _runs(values: Values) -> list[list[int]]:
    """Indices of the stretches without a gap: a missing value breaks the line, it is never drawn as 0."""
    runs: list[list[int]] = []
    for index, value in enumerate(values):
        if value is None:
            continue
        if runs and runs[-1][-1] == index - 1:
            runs[-1].append(index)
        else:
            runs.append([index])
    return runs


def _line_marks(line: Line, axis: Axis) -> list[Markup]:
    count = len(line.values)
    marks: list[Markup] = []
    if line.low is not None and line.high is not None:
        for run in _runs([None if low is None else high for low, high in zip(line.low, line.high, strict=True)]):
            upper = [_point(_x(i, count), axis.y(line.high[i] or 0.0)) for i in run]
            lower = [_point(_x(i, count), axis.y(line.low[i] or 0.0)) for i in reversed(run)]
            marks.append(Markup('<polygon class="band {}" points="{}"/>').format(line.css, " ".join(upper + lower)))
    for run in _runs(line.values):
        points = [_point(_x(i, count), axis.y(line.values[i] or 0.0)) for i in run]
        if len(points) == 1:
            x, y = points[0].split(",")
            marks.append(Markup('<circle class="dot {}" cx="{}" cy="{}" r="2.5"/>').format(line.css, x, y))
        else:
            marks.append(Markup('<polyline class="line {}" points="{}"/>').format(line.css, " ".join(points)))
    return marks


def _frame(axis: Axis, steps: Sequence[int]) -> list[Markup]:
    marks: list[Markup] = []
    for tick, text in zip(axis.ticks, _tick_texts(axis), strict=True):
        marks.append(_rule("grid", axis.y(tick)))
        marks.append(_tick(_LEFT - 6, axis.y(tick) + 3.5, "end", text))
    bottom = HEIGHT - 6
    if len(steps) == 1:
        return [*marks, _tick(_x(0, 1), bottom, "middle", f"step {steps[0]}")]
    ends = [_tick(_LEFT, bottom, "start", f"step {steps[0]}"), _tick(WIDTH - _RIGHT, bottom, "end", str(steps[-1]))]
    return [*marks, *ends]


def _rule(css: str, y: float) -> Markup:
    line = Markup('<line class="{}" x1="{}" x2="{}" y1="{:.1f}" y2="{:.1f}"/>')
    return line.format(css, _LEFT, WIDTH - _RIGHT, y, y)


def _tick(x: float, y: float, anchor: str, text: str) -> Markup:
    return Markup('<text class="tick" x="{:.1f}" y="{:.1f}" text-anchor="{}">{}</text>').format(x, y, anchor, text)


def _hover(steps: Sequence[int], lines: Sequence[Line]) -> list[Markup]:
    # The browser shows a <title> under the pointer: exact values without a script.
    count = len(steps)
    width = (WIDTH - _LEFT - _RIGHT) / max(1, count - 1)
    shapes = []
    for index, step in enumerate(steps):
        words = ", ".join(f"{line.label} {number(line.values[index])}" for line in lines)
        shapes.append(
            Markup('<rect class="hit" x="{:.1f}" y="{}" width="{:.1f}" height="{}"><title>{}</title></rect>').format(
                _x(index, count) - width / 2, _TOP, width, HEIGHT - _TOP - _BOTTOM, f"step {step}: {words}"
            )
        )
    return shapes


def _svg(description: str, marks: Sequence[Markup]) -> Markup:
    return Markup('<svg class="chart" viewBox="0 0 {:.0f} {:.0f}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH, HEIGHT, description, Markup("").join(marks)
    )


def describe(title: str, steps: Sequence[int], lines: Sequence[Line]) -> str:
    """What a chart shows, in words, for readers who can't see it."""
    parts = []
    for line in lines:
        known = [value for value in line.values if value is not None]
        if known:
            parts.append(
                f"{line.label}: first {number(known[0])}, last {number(known[-1])}, "
                f"lowest {number(min(known))}, highest {number(max(known))}"
            )
    return f"{title} over steps {steps[0]} to {steps[-1]}. {'. '.join(parts)}."


def line_chart(
    title: str,
    steps: Sequence[int],
    lines: Sequence[Line],
    *,
    log: bool = False,
    floor: float | None = None,
    bound: float | None = None,
) -> Markup:
    """Curves over steps.

    Args:
        steps: at least one; every line has as many values (None = missing).
        log: logarithmic vertical axis.
        floor: the vertical axis starts here at the highest.
        bound: drawn as a dashed line, e.g. the largest gap allowed.
    """
    known = [v for line in lines for values in (line.values, line.low, line.high) if values for v in values]
    values = [v for v in known if v is not None] + ([] if bound is None else [bound])
    axis = log_axis(min(values), max(values)) if log else linear_axis(min(values), max(values), floor=floor)
    marks = _frame(axis, steps)
    if bound is not None:
        marks.append(_rule("bound", axis.y(bound)))
        marks.append(_tick(WIDTH - _RIGHT - 2, axis.y(bound) - 4, "end", f"bound {number(bound)}"))
    for line in lines:
        marks += _line_marks(line, axis)
    return _svg(describe(title, steps, lines), [*marks, *_hover(steps, lines)])


def stacked_chart(title: str, steps: Sequence[int], layers: Sequence[Line]) -> Markup:
    """Layers that add up, one column a step; a missing value adds nothing and is named in the hover text."""
    tops = [sum(layer.values[i] or 0.0 for layer in layers) for i in range(len(steps))]
    axis = linear_axis(0.0, max(tops), floor=0.0)
    marks = _frame(axis, steps)
    count = len(steps)
    pitch = (WIDTH - _LEFT - _RIGHT) / count
    width = max(pitch - (1.0 if pitch > 4.0 else 0.0), 0.4)
    for index in range(count):
        below = 0.0
        for layer in layers:
            value = layer.values[index] or 0.0
            y = axis.y(below + value)
            height = axis.y(below) - y
            below += value
            if height > 0.0:
                marks.append(
                    Markup('<rect class="fill {}" x="{:.1f}" y="{:.1f}" width="{:.2f}" height="{:.2f}"/>').format(
                        layer.css, _LEFT + pitch * index, y, width, height
                    )
                )
    return _svg(describe(title, steps, layers), [*marks, *_hover(steps, layers)])


def difference_mark(mean: float, low: float, high: float, reach: float) -> Markup:
    """A dot with its interval against a line at 0; ``reach`` is the largest absolute value of the column."""
    width, height, middle = 150.0, 22.0, 75.0
    scale = 0.0 if reach == 0.0 else (middle - 6.0) / reach
    left, centre, right = (middle + scale * value for value in (low, mean, high))
    css = "sure" if low > 0.0 or high < 0.0 else "unsure"
    return Markup(
        '<svg class="mark {}" viewBox="0 0 {:.0f} {:.0f}" aria-hidden="true">'
        '<line class="zero" x1="{:.1f}" x2="{:.1f}" y1="1" y2="21"/>'
        '<line class="whisker" x1="{:.1f}" x2="{:.1f}" y1="11" y2="11"/>'
        '<circle cx="{:.1f}" cy="11" r="4"/></svg>'
    ).format(css, width, height, middle, middle, left, right, centre)
