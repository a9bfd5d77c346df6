"""The run's report: one HTML page that explains a run to a person, without network or script.

Role: puts what a run folder holds into words, tables, curves and films (``overread report``).
Input: a run folder, whole or not. Output: one self-contained file of mode 0600, since it shows patient text.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from orchestration.files import write_atomically
from orchestration.report_charts import difference_mark, number
from orchestration.report_curves import curve_sections, number_table
from orchestration.report_films import MAX_FILMS, choose_films
from orchestration.report_source import EvaluationSummary, Row, RunRecord, Summary, read_run
from orchestration.statistics import Interval
from rewards.scorers.registry import scorers
from schemas.errors import ConfigError

_EVENTS_A_KIND = 5  # of each kind the first ones are listed; the rest is counted
_DETAIL_LIMIT = 160  # characters of an event's details


@dataclass(frozen=True)
class MetricRow:
    """One metric of the before/after table."""

    name: str
    before: Interval | None
    after: Interval | None
    difference: Interval | None
    lower_is_better: bool
    mark: Markup


@dataclass(frozen=True)
class StageRow:
    """One stage's duration; ``share`` is its percentage of the longest stage."""

    name: str
    seconds: float
    share: float


@dataclass(frozen=True)
class EventRow:
    """One event, ``at`` seconds after the first."""

    at: float | None
    kind: str
    details: str


@dataclass(frozen=True)
class EventKind:
    """How often a kind of event occurred, and how many of them the table lists."""

    kind: str
    count: int
    listed: int


def write_report(run_dir: Path, out: Path) -> None:
    """Write the report of ``run_dir`` to ``out``; the same folder gives the same bytes.

    Raises:
        DataError: not a run folder, or a file in it can't be read.
        ConfigError: ``out`` is a folder, or lies in one that doesn't exist.
    """
    if out.is_dir():
        raise ConfigError(
            "OUT", "must be a file", f"{out}, a folder", f"give a file name such as {out / 'report.html'}"
        )
    if not out.parent.is_dir():
        raise ConfigError("OUT", "must lie in an existing folder", out, f"make {out.parent} first")
    page = render(read_run(run_dir))
    write_atomically(out, page)


def render(record: RunRecord) -> str:
    """The page as text."""
    summary = record.summary
    films = choose_films(record.before, record.after)
    return (
        _environment()
        .get_template("report.html.jinja")
        .render(
            name=summary.name or record.config.get("name") or record.folder,
            status=summary.status or "unfinished",
            facts=facts(record),
            verdict=verdict(summary.eval),
            missing=_all_missing(record),
            metric_rows=metric_rows(summary.eval),
            sections=curve_sections(record.metrics, _section(record.config, "bounds").get("logprob_gap")),
            numbers=number_table(record.metrics),
            bounds=summary.bounds,
            films=films,
            film_limit=MAX_FILMS,
            stages=stage_rows(summary.seconds),
            total_s=_total_s(summary),
            events=_event_rows(record.events),
            event_kinds=_event_kinds(record.events),
            drops=sorted(summary.groups.dropped_by_cause.items()),
            versions=sorted(summary.versions.items()),
            command=summary.command,
            config_text=record.config_text,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,  # everything from a run folder is text, never markup
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _shown
    environment.filters["duration"] = duration
    environment.filters["signed"] = signed
    environment.filters["breakable"] = breakable
    return environment


def _shown(value: float | str | None) -> str:
    return value if isinstance(value, str) else number(value)


def signed(value: float) -> str:
    """A number with its sign, also when positive."""
    return f"+{number(value)}" if value > 0.0 else number(value)


def duration(seconds: float | None) -> str:
    """Seconds for people: ``0.8 s``, ``42 s``, ``4 min 12 s``, ``1 h 03 min``."""
    if seconds is None:
        return "–"
    if seconds < 10.0:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def facts(record: RunRecord) -> list[tuple[str, str]]:
    """The few things that one wants to know first."""
    summary, config = record.summary, record.config
    done = summary.steps if summary.steps is not None else (record.metrics[-1]["step"] if record.metrics else None)
    planned = config.get("steps")
    group_size = _section(config, "rollout").get("group_size")
    groups = config.get("groups_per_step")
    rows = [
        ("Model", summary.model or config.get("model")),
        ("Steps", None if done is None else f"{done} of {planned}" if planned else str(done)),
        ("Per step", f"{groups} prompts × {group_size} completions" if groups and group_size else None),
        ("Duration", duration(_total_s(summary)) if summary.seconds else None),
        ("Machine", _machine(summary)),
    ]
    return [(name, str(value)) for name, value in rows if value is not None]


def _machine(summary: Summary) -> str | None:
    cores, memory = summary.machine.get("cores"), summary.machine.get("memory_gib")
    parts = [f"{_shown(cores)} cores" if cores else "", f"{_shown(memory)} GiB" if memory else ""]
    return ", ".join(part for part in parts if part) or None


def _section(config: Row, name: str) -> Row:
    section = config.get(name)
    return section if isinstance(section, dict) else {}


def verdict(evaluation: EvaluationSummary) -> str:
    """What training changed, in two sentences that claim no more than the intervals do."""
    if not evaluation.difference:
        return "No evaluation was made on both sides of training, so this page can't say what training changed."
    moved, still = [], []
    for name, change in evaluation.difference.items():
        before, after = evaluation.before.get(name), evaluation.after.get(name)
        if not change.excludes_zero:
            still.append(name)
            continue
        verb = "rose" if change.mean > 0 else "fell"
        if before is None or after is None:
            size = f"by {number(abs(change.mean))}"
        else:
            size = f"from {number(before.mean)} to {number(after.mean)}"
        moved.append(f"{name} {verb} {size}")
    sentences = []
    if moved:
        sentences.append(f"On held-out patients {_listed(moved)}.")
    if still:
        sentences.append(f"{_listed(still)} {'shows' if len(still) == 1 else 'show'} no change beyond chance.")
    return " ".join(sentences)


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def breakable(name: str) -> Markup:
    """A name that may wrap after each underscore and slash."""
    pieces = re.split(r"(?<=[_/])", name)
    return Markup("<wbr>").join(pieces)


def metric_rows(evaluation: EvaluationSummary) -> list[MetricRow]:
    """One row a metric, in the summary's order."""
    names = list(dict.fromkeys((*evaluation.difference, *evaluation.after, *evaluation.before)))
    reach = max((abs(end) for change in evaluation.difference.values() for end in change.ci95), default=0.0)
    rows = []
    for name in names:
        change = evaluation.difference.get(name)
        lower = name in scorers() and scorers()[name].direction == "lower"
        mark = Markup("") if change is None else difference_mark(change.mean, *change.ci95, reach)
        rows.append(MetricRow(name, evaluation.before.get(name), evaluation.after.get(name), change, lower, mark))
    return rows


def _all_missing(record: RunRecord) -> list[str]:
    summary = record.summary
    parts = list(record.missing)
    if not summary.eval.before and not summary.eval.after:
        parts.append("evaluation results")
    if not summary.bounds:
        parts.append("the run's bounds")
    if not summary.seconds:
        parts.append("durations of the stages")
    return parts


def _total_s(summary: Summary) -> float | None:
    if not summary.seconds:
        return None
    return summary.seconds.get("total", math.fsum(summary.seconds.values()))


def stage_rows(seconds: dict[str, float]) -> list[StageRow]:
    """Stages in the order in which the run recorded them, without their total."""
    stages = {name: value for name, value in seconds.items() if name != "total"}
    longest = max(stages.values(), default=0.0) or 1.0
    return [StageRow(name, value, 100.0 * value / longest) for name, value in stages.items()]


def _event_kinds(events: Sequence[Row]) -> list[EventKind]:
    counts: dict[str, int] = {}
    for event in events:
        kind = str(event.get("kind", "unnamed"))
        counts[kind] = counts.get(kind, 0) + 1
    return [EventKind(kind, count, min(count, _EVENTS_A_KIND)) for kind, count in counts.items()]


def _event_rows(events: Sequence[Row]) -> list[EventRow]:
    times = [event["time"] for event in events if isinstance(event.get("time"), int | float)]
    start = min(times, default=0.0)
    rows: list[EventRow] = []
    seen: dict[str, int] = {}
    for event in events:
        kind = str(event.get("kind", "unnamed"))
        seen[kind] = seen.get(kind, 0) + 1
        if seen[kind] <= _EVENTS_A_KIND:
            time = event.get("time")
            at = float(time) - start if isinstance(time, int | float) else None
            rows.append(EventRow(at, kind, _details(event)))
    return rows


def _details(event: dict[str, Any]) -> str:
    parts = []
    for name, value in event.items():
        if name in ("time", "kind"):
            continue
        if isinstance(value, int | float) and not isinstance(value, bool):
            text = number(value)
        elif isinstance(value, str):
            text = value
        else:
            text = json.dumps(value, ensure_ascii=False, sort_keys=True)
        parts.append(f"{name} {text}")
    line = ", ".join(parts)
    return line if len(line) <= _DETAIL_LIMIT else f"{line[: _DETAIL_LIMIT - 1]}…"
