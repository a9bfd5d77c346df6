"""Every embedded report scorer on the 3,955 OpenI reports inside the torchxrayvision package.

    python -m benchmarks.openi_reports

Each report against itself, and against another one of a seeded shuffle: what a scorer can tell apart. Then its speed in
one process, per second of processor time: every reference new, and groups of 8 answers to one reference, as in GRPO.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import statistics
import tarfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.harness import output_path
from orchestration.versions import versions
from rewards.chexpert_labels import label_report
from rewards.references import DEFAULT_MIB, REFERENCES
from rewards.resources import Resources
from rewards.scorer import ScoreItem, Scorer
from rewards.scorers.registry import scorers
from schemas.group import Score
from schemas.prompt import Reference

GROUP_SIZE = 8
_ROUNDS = 3
_BATCH = 256


@dataclass(frozen=True)
class OpenIReport:
    """Findings and impression of a report (28 of them have neither), and the indexers' main headings."""

    text: str
    headings: tuple[str, ...]


@dataclass(frozen=True)
class Row:
    """One scorer: mean values, and reports per second of processor time."""

    scorer: str
    direction: str
    itself: float
    shuffled: float
    per_second: float
    per_second_in_groups: float


def archive() -> Path | None:
    """Where the installed package keeps the reports; None where it is not installed."""
    spec = importlib.util.find_spec("torchxrayvision")  # found, not imported: that takes seconds
    return None if spec is None or spec.origin is None else Path(spec.origin).parent / "data" / "NLMCXR_reports.tgz"


def read_reports(path: Path) -> Iterator[OpenIReport]:
    """Every report, in the archive's order."""
    with tarfile.open(path) as files:
        for member in files:
            stream = files.extractfile(member) if member.name.endswith(".xml") else None
            if stream is None:
                continue
            root = ElementTree.parse(stream).getroot()
            parts = {part.get("Label"): part.text or "" for part in root.iter("AbstractText")}
            text = f"{parts.get('FINDINGS', '')} {parts.get('IMPRESSION', '')}".strip()
            yield OpenIReport(text, tuple(heading.text or "" for heading in root.iter("major")))


def item(answer: str, reference: str) -> ScoreItem:
    """One report as an answer; its words stand in for tokens."""
    count = len(answer.split())
    return ScoreItem("report", answer, answer, Reference(report=reference), token_count=count)


def shuffled(texts: Sequence[str]) -> list[str]:
    """The reports in another order, always the same."""
    return random.Random(0).sample(texts, len(texts))


def report_scorers() -> list[Scorer[Any]]:
    """The embedded scorers of reports, loaded."""
    asked = item("a", "b")
    chosen = [
        scorer
        for scorer in scorers().values()
        if scorer.tier == "embedded" and "report" in scorer.tasks and not any(map(asked.lacks, scorer.needs))
    ]
    for scorer in chosen:
        scorer.load(Resources())
    return chosen


def values(scorer: Scorer[Any], items: Sequence[ScoreItem]) -> list[float]:
    """A scorer's values with its default parameters; an error is a bug here."""
    assert scorer.score is not None
    results = scorer.score(items, scorer.params())
    scores = [result for result in results if isinstance(result, Score)]
    assert len(scores) == len(items)
    return [score.value for score in scores]


def _per_second(scorer: Scorer[Any], items: Sequence[ScoreItem]) -> float:
    rates: list[float] = []
    for _ in range(_ROUNDS):
        REFERENCES.limit(DEFAULT_MIB * 2**20)
        label_report.cache_clear()
        started = time.process_time()
        for start in range(0, len(items), _BATCH):
            values(scorer, items[start : start + _BATCH])
        rates.append(len(items) / (time.process_time() - started))
    return statistics.median(rates)


def measure(scorer: Scorer[Any], texts: Sequence[str]) -> Row:
    """One scorer's row."""
    others = shuffled(texts)
    against_others = [item(answer, reference) for answer, reference in zip(texts, others, strict=True)]
    in_groups = [item(answer, others[index // GROUP_SIZE]) for index, answer in enumerate(texts)]
    return Row(
        scorer=scorer.name,
        direction=scorer.direction,
        itself=statistics.fmean(values(scorer, [item(text, text) for text in texts])),
        shuffled=statistics.fmean(values(scorer, against_others)),
        per_second=_per_second(scorer, against_others),
        per_second_in_groups=_per_second(scorer, in_groups),
    )


def main() -> None:
    """The command line."""
    out = output_path()
    path = archive()
    if path is None:
        raise SystemExit("torchxrayvision, which holds the reports, is not installed")
    texts = [report.text for report in read_reports(path)]
    print(f"openi_reports ({len(texts)} reports, one process)")
    print(f"  {'scorer':22}{'better':>8}{'itself':>9}{'shuffled':>10}{'reports/s':>11}{f'groups of {GROUP_SIZE}':>13}")
    rows = [measure(scorer, texts) for scorer in report_scorers()]
    for row in rows:
        print(
            f"  {row.scorer:22}{row.direction:>8}{row.itself:9.3f}{row.shuffled:10.3f}"
            f"{row.per_second:11,.0f}{row.per_second_in_groups:13,.0f}"
        )
    if out is not None:
        content = {
            "name": "openi_reports",
            "machine": {"cores": os.cpu_count(), "system": os.uname().sysname},
            "versions": versions() | {name: metadata.version(name) for name in ("sacrebleu", "nltk", "rouge-score")},
            "rows": [asdict(row) for row in rows],
        }
        out.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
