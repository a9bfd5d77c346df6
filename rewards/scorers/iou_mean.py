"""iou_mean: how much of each reference box does an answer find?

Role: an evaluation figure that reads like "the mean overlap is 0.6". Never a training reward: false positives do not
change it, and among many boxes each reference finds a better partner, so flooding raises it.
Input: an answer with boxes, reference boxes. Output: mean over the reference boxes of the IoU of their pairs (0 without
a pair), 0-1.

Where the reference has no box but the answer has, it is 0: there alone a false positive is seen.
"""

from __future__ import annotations

from collections.abc import Sequence

from rewards.box_matching import Match, match_sides
from rewards.grounding import GroundingParams, load_matching, read_grounding
from rewards.scorer import ScoreItem, Scorer
from schemas.group import Score, ScoreError


def iou_mean(match: Match) -> float:
    """t / n_reference, 0-1; 0 without a reference box."""
    return match.iou_sum / match.reference if match.reference else 0.0


def _score(item: ScoreItem, params: GroundingParams) -> Score:
    sides, counts, value = read_grounding(item, params)
    match = match_sides(sides)
    if value is None:
        value = iou_mean(match)
    return Score(value=value, details={"iou_sum": match.iou_sum, "matched": match.matched, **counts})


def score(items: Sequence[ScoreItem], params: GroundingParams) -> list[Score | ScoreError]:
    """One score an item."""
    return [_score(item, params) for item in items]


SCORER = Scorer(
    name="iou_mean",
    version="1",
    tasks=frozenset({"grounding"}),
    range=(0.0, 1.0),
    direction="higher",
    needs=("reference.boxes", "box_format"),
    params=GroundingParams,
    score=score,
    load=load_matching,
    evaluation_only=True,
    summary="mean over reference boxes of the matched IoU; blind to false positives",
)
