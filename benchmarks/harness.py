"""What every benchmark does the same way: alternate ours and the other, take medians, print a table, write JSON."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from orchestration.versions import versions


@dataclass(frozen=True)
class Row:
    """One comparison. ``spread`` is the largest relative distance of a pair's ratio from the median ratio."""

    what: str
    ours: float
    other: float
    unit: str
    ratio: float
    goal: float | None
    spread: float


def compare(
    what: str, ours: Callable[[], None], other: Callable[[], None], *, pairs: int = 5, goal: float | None = None
) -> Row:
    """Seconds of two ways to do the same; they run in turn, after one of each that is not counted.

    Returns:
        Medians, and ``ratio`` = other / ours: how many times faster ours is.
    """
    counted = [(_timed(ours), _timed(other)) for _ in range(pairs + 1)][1:]
    return _row(what, counted, "s", [b / a for a, b in counted], goal)


def compare_rates(
    what: str,
    ours: tuple[Callable[[], None], int],
    other: tuple[Callable[[], None], int],
    unit: str,
    *,
    pairs: int = 5,
    goal: float | None = None,
) -> Row:
    """How many a second two ways do, each given with how many it does; in turn, after one of each that is not counted.

    Returns:
        Medians, and ``ratio`` = ours / other.
    """
    counted = [(rate(*ours), rate(*other)) for _ in range(pairs + 1)][1:]
    return _row(what, counted, unit, [a / b for a, b in counted], goal)


def _row(
    what: str, counted: Sequence[tuple[float, float]], unit: str, ratios: Sequence[float], goal: float | None
) -> Row:
    ratio = statistics.median(ratios)
    return Row(
        what=what,
        ours=statistics.median(a for a, _ in counted),
        other=statistics.median(b for _, b in counted),
        unit=unit,
        ratio=ratio,
        goal=goal,
        spread=max(abs(r - ratio) / ratio for r in ratios),
    )


def rate(run: Callable[[], None], count: int) -> float:
    """How many a second ``run`` does, which does ``count``."""
    return count / _timed(run)


def _timed(function: Callable[[], None]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def output_path() -> Path | None:
    """The command line of every benchmark: ``--json OUT``."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path, default=None, help="write the rows to this file")
    return parser.parse_args().json  # type: ignore[no-any-return]


def report(name: str, rows: Sequence[Row], out: Path | None) -> None:
    """Print the rows, and write them to ``out`` where one is given."""
    print(f"{name} ({os.cpu_count()} cores)")
    for row in rows:
        goal = "" if row.goal is None else f", goal {row.goal:g}"
        print(
            f"  {row.what}: ours {row.ours:.3f} {row.unit}, other {row.other:.3f} {row.unit},"
            f" ratio {row.ratio:.2f} (spread {row.spread:.0%}{goal})"
        )
    if out is not None:
        machine = {"cores": os.cpu_count(), "system": os.uname().sysname}
        rows_json = [asdict(row) for row in rows]
        text = json.dumps({"name": name, "machine": machine, "versions": versions(), "rows": rows_json}, indent=1)
        out.write_text(text, encoding="utf-8")
