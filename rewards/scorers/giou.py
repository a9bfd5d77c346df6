"""giou: how near are an answer's boxes to the reference boxes, also where they do not overlap?

Role: a grounding score with a slope where IoU is flat at 0; generalised IoU (Rezatofighi et al. 2019) over the pairs.
Input: an answer with boxes, reference boxes. Output: mean of the pairs' GIoU, -1 for each box left over, -1 to 1.

Pairs are those with the greatest sum of GIoU, so boxes that do not overlap are paired too. A box without a partner, on
either side, is worth what a box infinitely far away is: -1. So a further box lowers the mean unless it is a reference
box's better partner. Answer or reference empty: -1. Both empty: ``empty_match_value`` if the
answer says that there is none, -1 if it only says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from rewards.box_matching import Sides, optimal_pairs
from rewards.box_matching import giou as giou_of_pair
from rewards.grounding import GroundingParams, load_matching, read_grounding
from rewards.scorer import ScoreItem, Scorer
from schemas.group import Score, ScoreError


def giou_pairs(sides: Sides) -> list[float]:
    """1 + GIoU of each optimal pair: what it is better than two boxes left over. Labels that disagree make no pair."""
    gains = [[1.0 + giou_of_pair(box, other) for other in sides.reference] for box in sides.predicted]
    for row, column in sides.disagreeing:
        gains[row][column] = 0.0
    return [gain for _, _, gain in optimal_pairs(gains)]


def mean_giou(gains: Sequence[float], written: int, reference: int) -> float:
    """Mean GIoU over max(written, reference) places, -1 in each that has no pair; one side has a box."""
    return sum(gains) / max(written, reference) - 1.0


def _score(item: ScoreItem, params: GroundingParams) -> Score:
    sides, counts, value = read_grounding(item, params, silence_value=-1.0)
    gains = giou_pairs(sides)
    if value is None:
        value = mean_giou(gains, sides.written, len(sides.reference))
    return Score(value=value, details={"giou_sum": sum(gains) - len(gains), "matched": len(gains), **counts})


def score(items: Sequence[ScoreItem], params: GroundingParams) -> list[Score | ScoreError]:
    """One score an item."""
    return [_score(item, params) for item in items]


SCORER = Scorer(
    name="giou",
    version="1",
    tasks=frozenset({"grounding"}),
    range=(-1.0, 1.0),
    direction="higher",
    needs=("reference.boxes", "box_format"),
    params=GroundingParams,
    score=score,
    load=load_matching,
    summary="mean generalised IoU of the optimal pairs, -1 for every box without a partner",
)
