"""The other side of benchmarks/rewards.py: a reward service as in the paper's public code.

Role: one pair per request, scored when it comes, in the web server's process: no batches, no cache, no workers. It
calls the same scorer functions as ours, so that what is compared is the service and not the formulas.
Input: ``python -m benchmarks.paper_service PORT``; POST /score, a Pair. Output: scorer -> value.
"""

from __future__ import annotations

import sys

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.reward_load import SCORERS
from rewards.references import REFERENCES
from rewards.resources import Resources
from rewards.scorer import ScoreItem
from rewards.scorers.registry import scorers
from rewards.scoring import Slice, score_slices
from schemas.prompt import Box, Reference, Task


class Pair(BaseModel):
    """One completion with its truth."""

    task: Task
    completion: str
    report: str | None = None
    boxes: list[tuple[float, float, float, float]] | None = None


app = FastAPI()
_PARAMS = {name: scorers()[name].params() for names in SCORERS.values() for name in names}


@app.post("/score")
def score(pair: Pair) -> dict[str, float]:
    """The pair's scores."""
    boxes = None if pair.boxes is None else tuple(Box(x1=a, y1=b, x2=c, y2=d) for a, b, c, d in pair.boxes)
    item = ScoreItem(pair.task, pair.completion, pair.completion, Reference(report=pair.report, boxes=boxes), "radvlm")
    names = SCORERS[pair.task]
    outcomes, _ = score_slices(scorers(), [Slice([item], [names], {name: _PARAMS[name] for name in names})])
    return {name: found.value for name, found in outcomes[0][0].scores.items()}


def main(port: int) -> None:
    """Serves until it is killed."""
    REFERENCES.limit(0)
    for name in _PARAMS:
        scorers()[name].load(Resources())
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


if __name__ == "__main__":
    main(int(sys.argv[1]))
