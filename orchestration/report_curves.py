"""The report's curves: which metrics are drawn together, and how.

Role: turns the rows of ``metrics.jsonl`` into sections of charts, and into one table for who prefers numbers.
Input: one row a step. Output: ``Section`` values; a metric that no step has gets no chart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from markupsafe import Markup

from orchestration.report_charts import Line, Values, line_chart, number, stacked_chart

MAX_COLUMNS = 160  # more would be thinner than a pixel; neighbouring steps are then joined
_TABLE_ROWS = 20
_SMOOTH_FROM = 20  # steps from which a moving mean helps

Row = dict[str, Any]


@dataclass(frozen=True)
class Chart:
    """One chart with its legend ((css class, label), ...); ``aside`` is its unit or last value."""

    title: str
    note: str
    svg: Markup
    legend: tuple[tuple[str, str], ...]
    aside: str


@dataclass(frozen=True)
class Section:
    """Charts that answer one question."""

    title: str
    charts: tuple[Chart, ...]


@dataclass(frozen=True)
class Table:
    """Numbers behind the curves; ``cells`` are formatted, one list a row."""

    head: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    note: str


class _Columns:
    """The metrics as columns, at most MAX_COLUMNS long."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows
        self.joined = max(1, math.ceil(len(rows) / MAX_COLUMNS))
        self._parts = [rows[start : start + self.joined] for start in range(0, len(rows), self.joined)]
        self.steps = [part[-1]["step"] for part in self._parts]
        self.names = list(dict.fromkeys(name for row in rows for name in row))

    def get(self, name: str) -> list[float | None]:
        """A column: the mean of joined steps, their largest for a metric that is itself a largest."""
        join: Callable[[list[float]], float] = max if name.endswith("/max") else fmean
        known = [[v for row in part if (v := _finite(row.get(name))) is not None] for part in self._parts]
        return [join(values) if values else None for values in known]

    def count(self, name: str) -> int:
        """Steps that have the metric."""
        return sum(_finite(row.get(name)) is not None for row in self._rows)

    def has(self, name: str) -> bool:
        return self.count(name) > 0


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def moving_mean(values: Values, window: int) -> list[float | None]:
    """The mean of the known values within ``window`` columns, centred; shorter at both ends."""
    half = window // 2
    smooth: list[float | None] = []
    for index in range(len(values)):
        near = [v for v in values[max(0, index - half) : index + half + 1] if v is not None]
        smooth.append(fmean(near) if near else None)
    return smooth


def curve_sections(rows: Sequence[Row], gap_bound: float | None = None) -> list[Section]:
    """All sections that have at least one chart.

    Args:
        gap_bound: the recipe's bound on the log-probability gap, in nats; drawn where there is one.
    """
    if not rows:
        return []
    columns = _Columns(rows)
    sections = [
        Section("Is it earning more?", _earning(columns)),
        Section("Is it learning soundly?", _learning(columns, gap_bound)),
        Section("Is it fast?", _speed(columns)),
    ]
    return [section for section in sections if section.charts]


def _last(values: Values, unit: str = "") -> str:
    known = [value for value in values if value is not None]
    return f"last {number(known[-1])} {unit}".rstrip() if known else ""


def _trend(columns: _Columns, name: str, title: str, unit: str = "", spread: str | None = None) -> list[Chart]:
    """One metric with its moving mean, and a band of one standard deviation where there is one."""
    if not columns.has(name):
        return []
    values = columns.get(name)
    low = high = None
    legend: list[tuple[str, str]] = []
    if spread is not None and columns.has(spread):
        pairs = list(zip(values, columns.get(spread), strict=True))
        low = [None if m is None or s is None else m - s for m, s in pairs]
        high = [None if m is None or s is None else m + s for m, s in pairs]
        legend.append(("band c1", "± 1 standard deviation"))
    if len(values) < _SMOOTH_FROM:
        lines = [Line("mean", "c1", values, low, high)]
        legend.insert(0, ("c1", "mean of the step"))
    else:
        window = 2 * (len(values) // 20) + 3
        lines = [Line("step", "c1 faint", values, low, high), Line("moving mean", "c1", moving_mean(values, window))]
        legend = [("c1", f"moving mean of {window}"), ("c1 faint", "each step"), *legend]
    return [Chart(title, "", line_chart(title, columns.steps, lines), tuple(legend), _last(lines[-1].values, unit))]


def _several(
    columns: _Columns,
    title: str,
    names: Sequence[tuple[str, str]],
    *,
    note: str = "",
    unit: str = "",
    log: bool = False,
    floor: float | None = None,
    bound: float | None = None,
) -> list[Chart]:
    """Several metrics ((key, label), ...) on one axis; those that no step has are left out."""
    present = [(name, label) for name, label in names if columns.has(name)]
    if not present:
        return []
    lines = [Line(label, f"c{i}", columns.get(name)) for i, (name, label) in enumerate(present, start=1)]
    svg = line_chart(title, columns.steps, lines, log=log, floor=floor, bound=bound)
    legend = tuple((line.css, f"{line.label}, {_last(line.values)}") for line in lines)
    return [Chart(title, note, svg, legend, unit)]


def _earning(columns: _Columns) -> tuple[Chart, ...]:
    charts = _trend(columns, "reward/mean", "Reward", spread="reward/std")
    for name in sorted(n for n in columns.names if n.startswith("score/") and n.endswith("/mean")):
        charts += _trend(columns, name, name.removeprefix("score/").removesuffix("/mean"))
    for name in sorted(n for n in columns.names if n.startswith("eval/")):
        if columns.count(name) > 1:  # a run without evaluations in between has before and after, which the table shows
            charts += _several(columns, name.removeprefix("eval/"), [(name, "held-out")])
    return tuple(charts)


def _learning(columns: _Columns, gap_bound: float | None) -> tuple[Chart, ...]:
    gaps = [
        ("logprob_gap/max", "tokens of the current version"),
        ("policy_gap/max", "older tokens"),
        ("push/canary_gap", "canary after the push"),
    ]
    groups = [("groups/zero_advantage", "without advantage"), ("groups/dropped", "dropped")]
    staleness = [("staleness/max", "oldest token"), ("staleness/mean", "mean")]
    return (
        *_several(
            columns,
            "Log-probability gap",
            gaps,
            unit="nats",
            log=True,
            bound=gap_bound,
            note="Engine against learner, largest of the step. Logarithmic scale.",
        ),
        *_several(columns, "Staleness", staleness, unit="policy versions", floor=0.0),
        *_trend(columns, "loss", "Loss"),
        *_trend(columns, "kl", "KL to the reference policy", unit="nats"),
        *_trend(columns, "grad_norm", "Gradient norm"),
        *_trend(columns, "clip_fraction", "Clipped tokens", unit="share"),
        *_several(columns, "Groups that taught nothing", groups, unit="groups", floor=0.0),
    )


def _speed(columns: _Columns) -> tuple[Chart, ...]:
    rates = [("rollout/tokens_per_s", "engines"), ("learner/tokens_per_s", "learner")]
    return (
        *_step_time(columns),
        *_several(columns, "Throughput", rates, unit="tokens/s", floor=0.0),
        *_trend(columns, "completion/tokens_mean", "Length of a completion", unit="tokens"),
        *_several(columns, "Waiting for rewards", [("time/reward_s", "per group")], unit="s", floor=0.0),
    )


def _step_time(columns: _Columns) -> list[Chart]:
    parts = [
        ("time/wait_for_groups_s", "waiting for groups", "c4"),
        ("time/train_s", "training", "c1"),
        ("time/push_s", "weight push", "c2"),
    ]
    present = [(name, label, css) for name, label, css in parts if columns.has(name)]
    if not present:
        return []
    layers = [Line(label, css, columns.get(name)) for name, label, css in present]
    if columns.has("time/step_s"):
        rest: list[float | None] = []
        for index, total in enumerate(columns.get("time/step_s")):
            named = math.fsum(layer.values[index] or 0.0 for layer in layers)
            rest.append(None if total is None else max(0.0, total - named))
        layers.append(Line("other", "c5", rest))
    title = "Time of a step"
    totals = [math.fsum(layer.values[i] or 0.0 for layer in layers) for i in range(len(columns.steps))]
    svg = stacked_chart(title, columns.steps, layers)
    return [Chart(title, "", svg, tuple((f"fill {layer.css}", layer.label) for layer in layers), _last(totals, "s"))]


def number_table(rows: Sequence[Row]) -> Table | None:
    """Evenly spaced steps with every metric, first and last step included; None without steps."""
    if not rows:
        return None
    names = [
        n for n in dict.fromkeys(k for row in rows for k in row) if any(_finite(r.get(n)) is not None for r in rows)
    ]
    last = len(rows) - 1
    count = min(_TABLE_ROWS, len(rows))
    picked = [rows[round(i * last / max(1, count - 1))] for i in range(count)]
    cells = tuple(tuple(number(_finite(row.get(name))) for name in names) for row in picked)
    note = "Every step." if count == len(rows) else f"{count} of {len(rows)} steps, evenly spaced."
    return Table(tuple(names), cells, note)
