"""soft_f1: how well an answer's boxes cover the reference boxes.

Role: the grounding reward of the paper (arXiv 2512.10691), as its code computes it.
Input: an answer with boxes, reference boxes. Output: 2t / (t + FP + n_reference), t = IoU sum of the optimal pairs.

A false positive costs as much as a missed reference box, so flooding does not pay. A pair's missing overlap costs only
in t, so one box per reference box always pays, however loose.
"""

from __future__ import annotations

from collections.abc import Sequence

from rewards.box_matching import Match, match_sides
from rewards.grounding import GroundingParams, load_matching, read_grounding
from rewards.scorer import ScoreItem, Scorer
from schemas.group import Score, ScoreError


def soft_f1(match: Match) -> float:
    """P = t/(t+FP), R = t/n_reference, F1 = 2PR/(P+R) = 2t/(t + FP + n_reference); 0-1; one side has a box."""
    return 2.0 * match.iou_sum / (match.iou_sum + match.false_positives + match.reference)


def _score(item: ScoreItem, params: GroundingParams) -> Score:
    sides, counts, value = read_grounding(item, params)
    match = match_sides(sides)
    if value is None:
        value = soft_f1(match)
    return Score(value=value, details={"iou_sum": match.iou_sum, "matched": match.matched, **counts})


def score(items: Sequence[ScoreItem], params: GroundingParams) -> list[Score | ScoreError]:
    """One score an item."""
    return [_score(item, params) for item in items]


SCORER = Scorer(
    name="soft_f1",
    version="2",
    tasks=frozenset({"grounding"}),
    range=(0.0, 1.0),
    direction="higher",
    needs=("reference.boxes", "box_format"),
    params=GroundingParams,
    score=score,
    load=load_matching,
    summary="2t / (t + false positives + references), t = IoU sum of the optimal pairs",
)
