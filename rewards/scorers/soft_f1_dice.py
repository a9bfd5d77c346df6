"""soft_f1_dice: how well an answer's boxes cover the reference boxes, by the paper's figure.

Role: soft_f1's sibling; the paper's (arXiv 2512.10691) figure and code differ, and this is the figure.
Input: an answer with boxes, reference boxes. Output: 2t / (n_predicted + n_reference), t = IoU sum of the best pairs.

Equal to soft_f1 where every pair overlaps fully, else lower: what a pair lacks in overlap counts on both sides. Each
box beyond the references lowers it, so flooding does not pay; a loose first box pays less than with soft_f1.
"""

from __future__ import annotations

from collections.abc import Sequence

from rewards.box_matching import Match, match_sides
from rewards.grounding import GroundingParams, load_matching, read_grounding
from rewards.scorer import ScoreItem, Scorer
from schemas.group import Score, ScoreError


def soft_f1_dice(match: Match) -> float:
    """2t / (n_predicted + n_reference), 0-1; one side has a box."""
    return 2.0 * match.iou_sum / (match.predicted + match.reference)


def _score(item: ScoreItem, params: GroundingParams) -> Score:
    sides, counts, value = read_grounding(item, params)
    match = match_sides(sides)
    if value is None:
        value = soft_f1_dice(match)
    return Score(value=value, details={"iou_sum": match.iou_sum, "matched": match.matched, **counts})


def score(items: Sequence[ScoreItem], params: GroundingParams) -> list[Score | ScoreError]:
    """One score an item."""
    return [_score(item, params) for item in items]


SCORER = Scorer(
    name="soft_f1_dice",
    version="1",
    tasks=frozenset({"grounding"}),
    range=(0.0, 1.0),
    direction="higher",
    needs=("reference.boxes", "box_format"),
    params=GroundingParams,
    score=score,
    load=load_matching,
    summary="2t / (predicted + references), t = IoU sum of the optimal pairs",
)
