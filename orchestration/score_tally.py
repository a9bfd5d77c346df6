"""Tally: what ``overread rewards score`` tells of a whole file.

Role: gathers numbers while rows are scored (a few bytes a row), then means with intervals and corpus F1.
Input: an ItemResult a row, and whose patient it is. Output: a summary for JSON, and tables for a terminal.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from orchestration.progress import Display
from orchestration.statistics import Interval, bootstrap_mean
from rewards.corpus import Counts, Masks, macro_f1, micro_f1
from rewards.scorer import Scorer
from rewards.wire import ItemResult

_SEED = 0  # the same file and scores, the same interval
_CORPUS_F1 = "chexpert_f1"  # the scorer whose details say which observations each side names


class Tally:
    """The numbers of one file."""

    def __init__(self) -> None:
        self.rows = 0
        self._values: dict[str, array[float]] = {}
        self._clusters: dict[str, array[int]] = {}  # beside each value: its patient
        self._errors: dict[str, Counter[str]] = {}
        self._messages: dict[tuple[str, str], str] = {}
        self._patients: dict[str, int] = {}
        self._masks = array("q")  # predicted, reference; predicted, reference; ...

    def add(self, result: ItemResult, patient_id: str | None) -> None:
        """One row."""
        self.rows += 1
        # A row without a patient counts as one of its own.
        cluster = -self.rows if patient_id is None else self._patients.setdefault(patient_id, len(self._patients))
        for name, score in result.scores.items():
            self._values.setdefault(name, array("d")).append(score.value)
            self._clusters.setdefault(name, array("q")).append(cluster)
            # Another version's service may count other things.
            if name == _CORPUS_F1 and score.details.keys() >= {"predicted_mask", "reference_mask"}:
                self._masks.extend(int(score.details[side]) for side in ("predicted_mask", "reference_mask"))
        for name, error in result.errors.items():
            self._errors.setdefault(name, Counter())[error.code] += 1
            self._messages.setdefault((name, error.code), error.message)

    def summary(self, scorers: Mapping[str, Scorer[Any]], versions: Mapping[str, str]) -> dict[str, Any]:
        """Per scorer its mean, 95 % interval and errors by code; corpus figures."""
        names = sorted(self._values.keys() | self._errors.keys())
        return {
            "rows": self.rows,
            "patients": len(self._patients) or None,
            "scorers": {name: self._of(name, scorers.get(name), versions.get(name)) for name in names},
            "corpus": self._corpus(),
        }

    def _of(self, name: str, scorer: Scorer[Any] | None, version: str | None) -> dict[str, Any]:
        interval = self._interval(name)
        return {
            "version": version,
            "better": None if scorer is None else scorer.direction,
            "mean": None if interval is None else interval.mean,
            "ci95": None if interval is None else list(interval.ci95),
            "n": 0 if interval is None else interval.n,
            "errors": dict(self._errors.get(name, {})),
        }

    def _interval(self, name: str) -> Interval | None:
        values = self._values.get(name)
        if not values:
            return None
        clusters = [str(cluster) for cluster in self._clusters[name]] if self._patients else None
        return bootstrap_mean(values, _SEED, clusters=clusters)

    def _corpus(self) -> dict[str, dict[str, float]]:
        if not self._masks:
            return {}
        masks = [Masks(*pair) for pair in zip(self._masks[::2], self._masks[1::2], strict=True)]
        return {_CORPUS_F1: {"micro_f1": micro_f1(map(_counts, masks)), "macro_f1": macro_f1(masks)}}

    def error_lines(self) -> list[str]:
        """One line a scorer and code, with the first of its messages (which hold no text of a report)."""
        return [
            f"{name}: {count} rows without a score, {code}: {self._messages[name, code]}"
            for name, codes in sorted(self._errors.items())
            for code, count in codes.most_common()
        ]


def _counts(masks: Masks) -> Counts:
    both = (masks.predicted & masks.reference).bit_count()
    return Counts(both, masks.predicted.bit_count() - both, masks.reference.bit_count() - both)


def show_summary(summary: Mapping[str, Any], error_lines: Sequence[str], display: Display) -> None:
    """The tables."""
    rows = [
        [name, _mean(of), str(of["n"]), str(sum(of["errors"].values())), of["better"] or "-"]
        for name, of in summary["scorers"].items()
    ]
    unit = "patients" if summary["patients"] else "rows"
    title = f"{summary['file']}: {summary['rows']} rows, 95 % intervals over {unit}"
    display.rows(title, ["scorer", "mean [95 % interval]", "scored", "errors", "better"], rows)
    for name, figures in summary["corpus"].items():
        cells = [[figure, f"{value:.4f}"] for figure, value in figures.items()]
        display.rows(f"{name} over the whole file", ["figure", "value"], cells)
    for line in error_lines:
        display.note(line)


def _mean(of: Mapping[str, Any]) -> str:
    if of["mean"] is None:
        return "-"
    low, high = of["ci95"]
    return f"{of['mean']:.4f} [{low:.4f}, {high:.4f}]"
