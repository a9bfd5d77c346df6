"""summary.json: how a run went, in numbers, with the bounds that it was meant to keep.

Input: the run folder's metrics, events and evaluations. Output: summary.json, and the tables printed at the end.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from orchestration.config import BoundSettings
from orchestration.evaluate import Evaluation, difference
from orchestration.files import read_json_lines, write_atomically
from orchestration.progress import Display
from orchestration.run import RunFolder
from orchestration.statistics import Interval
from orchestration.versions import versions

# Set by whoever timed the installation before this process (unix seconds); counted into seconds.total.
STARTED_AT_VARIABLE = "OVERREAD_STARTED_AT"
_TREND_STEPS = 10  # first and last steps that the sampled reward is compared over


@dataclass(frozen=True)
class Bound:
    """A figure that the run was meant to keep, measured by the run itself."""

    what: str
    measured: float
    bound: float
    unit: str
    met: bool


def write_summary(run: RunFolder, status: str, step: int, seconds: Mapping[str, float]) -> dict[str, Any]:
    """Write summary.json and return it."""
    lines = [line for line in read_json_lines(run.path / "metrics.jsonl") if not line.get("abandoned")]
    evaluations = _evaluations(run.path / "evaluations", run.recipe.seed)
    total = _with_setup(seconds)
    summary: dict[str, Any] = {
        "name": run.path.name,
        "status": status,
        "steps": step,
        "seconds": total,
        "eval": {part: _dump(intervals) for part, intervals in evaluations.items()},
        "training": _training_figures(lines),
        "bounds": [
            asdict(bound)
            for bound in _bounds(run.recipe.bounds, lines, evaluations.get("difference", {}), total["total"])
        ],
        "groups": {
            "by_state": dict(run.ledger.counts()),
            "dropped_by_cause": dict(run.ledger.drops_by_cause()),
        },
        "driver_peak_mib": _peak_mib(),
        "model": run.recipe.model,
        "machine": {"cores": os.cpu_count(), "memory_gib": round(_memory_gib(), 1)},
        "versions": versions(),
        "command": " ".join(["overread", *sys.argv[1:]]),
    }
    write_atomically(run.path / "summary.json", json.dumps(summary, indent=1))
    return summary


def _evaluations(folder: Path, seed: int) -> dict[str, dict[str, Interval]]:
    found = {label: folder / f"{label}.json" for label in ("before", "after")}
    read = {label: Evaluation.read(path) for label, path in found.items() if path.exists()}
    intervals = {label: evaluation.intervals(seed) for label, evaluation in read.items()}
    if len(read) == len(found):
        intervals["difference"] = difference(read["before"], read["after"], seed)
    return intervals


def _dump(intervals: Mapping[str, Interval]) -> dict[str, Any]:
    return {metric: interval.model_dump(mode="json") for metric, interval in intervals.items()}


def _with_setup(seconds: Mapping[str, float]) -> dict[str, float]:
    """The stages, with what came before this process where someone timed it."""
    started_at = os.environ.get(STARTED_AT_VARIABLE)
    if started_at is None:
        return dict(seconds)
    total = time.time() - float(started_at)
    return {"setup": round(total - seconds["total"], 3), **seconds, "total": round(total, 3)}


def _training_figures(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Sampled reward at the start and end, and medians of speed, over the surviving steps."""
    if not lines:
        return {}
    rewards = [line["reward/mean"] for line in lines]
    return {
        "reward_first": float(np.mean(rewards[:_TREND_STEPS])),
        "reward_last": float(np.mean(rewards[-_TREND_STEPS:])),
        "step_s_median": float(np.median([line["time/step_s"] for line in lines])),
        "completions_per_s_median": float(np.median([line["rollout/completions_per_s"] for line in lines])),
        "tokens_per_s_median": float(np.median([line["rollout/tokens_per_s"] for line in lines])),
    }


def _bounds(
    wanted: BoundSettings,
    lines: Sequence[Mapping[str, Any]],
    change: Mapping[str, Interval],
    total_s: float,
) -> list[Bound]:
    """The recipe's bounds that this run has figures for."""
    gaps = [line["logprob_gap/max"] for line in lines if line["logprob_gap/max"] is not None]
    pushes = [line["time/push_s"] for line in lines]
    at_most = [
        ("time from start to end", total_s / 60, wanted.minutes, "min"),
        ("largest log-probability gap", max(gaps, default=None), wanted.logprob_gap, "nats"),
        ("longest weight push", max(pushes, default=None), wanted.push_s, "s"),
        ("driver's peak memory", _peak_mib(), wanted.driver_mib, "MiB"),
    ]
    bounds = [
        Bound(what, measured, bound, unit, measured <= bound)
        for what, measured, bound, unit in at_most
        if measured is not None and bound is not None
    ]
    for metric, least in wanted.gains.items():
        if metric in change:
            interval = change[metric]
            met = interval.mean >= least and (least <= 0 or interval.ci95[0] > 0)
            bounds.append(Bound(f"held-out {metric}, after - before", interval.mean, least, "", met))
    if wanted.gains and lines:
        figures = _training_figures(lines)
        rise = figures["reward_last"] - figures["reward_first"]
        bounds.append(Bound("rise of the sampled reward", rise, 0.0, "", rise > 0))
    return bounds


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30


def show_summary(summary: Mapping[str, Any], display: Display) -> None:
    """Print the before/after table, the seconds by stage and the bounds."""
    change = summary["eval"].get("difference", {})
    rows = [
        [
            metric,
            *(interval_text(summary["eval"][part][metric]) for part in ("before", "after")),
            interval_text(value, "+"),
        ]
        for metric, value in change.items()
    ]
    if rows:
        display.rows("held-out patients, greedy: mean [95 % interval]", ["score", "before", "after", "change"], rows)
    seconds = summary["seconds"].items()
    display.rows("seconds by stage", ["stage", "s"], [[stage, f"{value:.1f}"] for stage, value in seconds])
    display.rows(
        "bounds",
        ["figure", "measured", "bound", "unit", "kept"],
        [
            [b["what"], f"{b['measured']:.4g}", f"{b['bound']:g}", b["unit"], "yes" if b["met"] else "NO"]
            for b in summary["bounds"]
        ],
    )


def interval_text(interval: Mapping[str, Any], sign: str = "") -> str:
    """``mean [low, high]`` of a dumped Interval."""
    low, high = interval["ci95"]
    return f"{interval['mean']:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"
