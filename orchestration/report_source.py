"""What a run folder holds, read once for the report.

Role: reads summary, metrics, events, recipe and the two evaluations; any of them may be missing.
Input: a run folder. Output: ``RunRecord``, whose ``missing`` says in words what isn't there.
"""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from orchestration.statistics import Interval
from schemas.arrow import table_to_groups
from schemas.errors import DataError
from schemas.group import RolloutGroup

_REMEDY = "restore the file from a copy, or move it away and write the report without it"

Row = dict[str, Any]


class _Part(BaseModel):
    # A report reads what other versions wrote: keys that it doesn't know are left alone.
    model_config = ConfigDict(extra="ignore", frozen=True, allow_inf_nan=False)


class Bound(_Part):
    """A bound that the run measured itself against."""

    what: str
    measured: float | str | None = None
    bound: float | str | None = None
    goal: float | str | None = None
    unit: str = ""
    met: bool | None = None


class EvaluationSummary(_Part):
    """Metric -> interval, before and after training, and of the paired difference."""

    before: dict[str, Interval] = Field(default_factory=dict)
    after: dict[str, Interval] = Field(default_factory=dict)
    difference: dict[str, Interval] = Field(default_factory=dict)


class GroupCounts(_Part):
    """How many groups were dropped, by cause."""

    dropped_by_cause: dict[str, int] = Field(default_factory=dict)


class Summary(_Part):
    """``summary.json``; every part may be missing."""

    name: str | None = None
    status: str | None = None
    steps: int | None = None
    seconds: dict[str, float] = Field(default_factory=dict)
    eval: EvaluationSummary = Field(default_factory=EvaluationSummary)
    bounds: list[Bound] = Field(default_factory=list)
    groups: GroupCounts = Field(default_factory=GroupCounts)
    versions: dict[str, str] = Field(default_factory=dict)
    model: str | None = None
    machine: dict[str, float | str | None] = Field(default_factory=dict)
    command: str | None = None


@dataclass(frozen=True)
class RunRecord:
    """Everything of a run folder that the report shows."""

    folder: str
    summary: Summary
    config_text: str
    config: Row
    metrics: list[Row]
    events: list[Row]
    before: list[RolloutGroup]
    after: list[RolloutGroup]
    missing: list[str] = field(default_factory=list)


def read_run(run_dir: Path) -> RunRecord:
    """Read a run folder.

    Raises:
        DataError: no such folder, nothing of a run in it, or a file that can't be read. The message names the file.
    """
    if not run_dir.is_dir():
        raise DataError(str(run_dir), "must be a run folder", "no such folder", "give the folder that `train` printed")
    missing: list[str] = []
    summary = _summary(run_dir / "summary.json", missing)
    config_text = _text(run_dir / "config.toml", "the recipe (config.toml)", missing)
    metrics = _json_lines(run_dir / "metrics.jsonl", "the metrics of each step (metrics.jsonl)", missing)
    events = _json_lines(run_dir / "events.jsonl", "events and faults (events.jsonl)", missing)
    before = _groups(run_dir / "evaluations" / "before.parquet", "the evaluation before training", missing)
    after = _groups(run_dir / "evaluations" / "after.parquet", "the evaluation after training", missing)
    if len(missing) == 6:
        raise DataError(
            str(run_dir), "must be a run folder", "none of a run's files", "give the folder that `train` printed"
        )
    return RunRecord(
        folder=run_dir.name,
        summary=summary,
        config_text=config_text,
        config=_toml(config_text, run_dir / "config.toml"),
        metrics=surviving_steps(metrics),
        events=events,
        before=before,
        after=after,
        missing=missing,
    )


def surviving_steps(rows: list[Row]) -> list[Row]:
    """One row a step of the history that survived.

    Rows marked abandoned are left out. A step that comes again was restored to: what lay behind it is abandoned too.
    """
    kept: list[Row] = []
    for row in rows:
        if isinstance(row.get("step"), int) and not row.get("abandoned"):
            kept = [earlier for earlier in kept if earlier["step"] < row["step"]]
            kept.append(row)
    return kept


def _text(path: Path, what: str, missing: list[str]) -> str:
    if not path.is_file():
        missing.append(what)
        return ""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(str(path), "must be readable text", type(error).__name__, _REMEDY) from error


def _summary(path: Path, missing: list[str]) -> Summary:
    text = _text(path, "the summary (summary.json)", missing)
    if not text:
        return Summary()
    try:
        return Summary.model_validate_json(text)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise DataError(str(path), "must be a run's summary", f"{where}: {problem['msg']}", _REMEDY) from error


def _toml(text: str, path: Path) -> Row:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise DataError(str(path), "must be valid TOML", str(error), _REMEDY) from error


def _json_lines(path: Path, what: str, missing: list[str]) -> list[Row]:
    rows: list[Row] = []
    lines = _text(path, what, missing).splitlines()
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines):
                # A run that was killed while it wrote leaves half a line behind; the lines before it are whole.
                missing.append(f"the last line of {path.name}, which was cut off")
                break
            raise DataError(f"{path} line {number}", "must be JSON", f"{len(line)} characters", _REMEDY) from error
        if not isinstance(row, dict):
            raise DataError(f"{path} line {number}", "must be a JSON object", type(row).__name__, _REMEDY)
        rows.append(row)
    return rows


def _groups(path: Path, what: str, missing: list[str]) -> list[RolloutGroup]:
    if not path.is_file():
        missing.append(what)
        return []
    try:
        return table_to_groups(pq.read_table(path))
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(str(path), "must be a table of groups", type(error).__name__, _REMEDY) from error
    except ValidationError as error:
        given = f"{error.error_count()} values that are none"
        raise DataError(
            str(path), "must be a table of groups", given, _REMEDY
        ) from None  # its text would quote the rows
