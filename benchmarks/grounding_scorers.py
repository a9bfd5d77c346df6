"""What the grounding scorers cost: processor time per answer, in one process.

Role: ``python -m benchmarks.grounding_scorers [--json OUT]``; the counterpart of openi_reports for boxes.
Input: the grounding groups of reward_load (one to three reference boxes). Output: microseconds an answer, by scorer.
"""

from __future__ import annotations

import json
import statistics
import time

from benchmarks.harness import output_path
from benchmarks.reward_load import groups
from orchestration.versions import versions
from rewards.resources import Resources
from rewards.scorer import ScoreItem
from rewards.scorers.registry import scorers

_ROUNDS = 5


def main() -> None:
    """Every embedded scorer of grounding, each alone."""
    out = output_path()
    items: list[ScoreItem] = []
    for group in groups("grounding"):
        reference = group[0].reference.to_reference()
        items += [item.to_score_item(reference)._replace(token_count=60) for item in group]
    rows: list[dict[str, object]] = []
    print(f"{len(items)} answers")
    for name, scorer in scorers().items():
        if scorer.tier != "embedded" or "grounding" not in scorer.tasks or scorer.score is None:
            continue
        scorer.load(Resources())
        seconds = []
        for _ in range(_ROUNDS):
            started = time.process_time()
            scorer.score(items, scorer.params())
            seconds.append(time.process_time() - started)
        microseconds = 1e6 * statistics.median(seconds) / len(items)
        rows.append({"scorer": name, "microseconds": microseconds})
        print(f"  {name:20} {microseconds:7.1f} microseconds an answer")
    if out is not None:
        result = {"name": "grounding_scorers", "versions": versions(), "rows": rows}
        out.write_text(json.dumps(result, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
