"""soft_f1: how well an answer's boxes cover the reference boxes.

Role: the grounding reward of the paper (arXiv 2512.10691), as its code computes it.
Input: an answer with boxes, reference boxes. Output: 2t / (t + FP + n_reference), t = IoU sum of the optimal pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from rewards.boxes import Match, match_boxes, parse_boxes
from rewards.resources import Resources
from rewards.scorer import ScoreItem, Scorer
from schemas.base import Settings
from schemas.group import Score, ScoreError


class SoftF1Params(Settings):
    """Parameters of soft_f1."""

    empty_match_value: float = Field(
        default=1.0,
        ge=0.0,
        le=1.0,
        description="value when neither side has a box; the paper gives 0, which punishes a right 'there is none'",
    )
    max_boxes: int = Field(
        default=50,
        ge=1,
        le=500,
        description="boxes matched per answer; more are false positives (no flooding)",
    )


def soft_f1(match: Match, empty_match_value: float) -> float:
    """P = t/(t+FP), R = t/n_reference, F1 = 2PR/(P+R) = 2t/(t + FP + n_reference); 0-1.

    ``empty_match_value`` where neither side has a box.
    """
    if match.predicted == 0 and match.reference == 0:
        return empty_match_value
    return 2.0 * match.iou_sum / (match.iou_sum + match.false_positives + match.reference)


def _score(item: ScoreItem, params: SoftF1Params) -> Score:
    assert item.box_format is not None  # both are in needs
    assert item.reference.boxes is not None
    parsed = parse_boxes(item.answer, item.box_format)
    match = match_boxes(parsed, item.reference.boxes, params.max_boxes)
    # A blank answer says nothing, so it is no right "there is none".
    value = soft_f1(match, params.empty_match_value if item.answer else 0.0)
    return Score(
        value=value,
        details={
            "iou_sum": match.iou_sum,
            "matched": match.matched,
            "predicted": match.predicted,
            "reference": match.reference,
            "invalid": parsed.invalid,
            "duplicates": match.duplicates,
            "repaired": parsed.repaired,
        },
    )


def score(items: Sequence[ScoreItem], params: SoftF1Params) -> list[Score | ScoreError]:
    """One score an item."""
    return [_score(item, params) for item in items]


def _load(_: Resources) -> None:
    import scipy.optimize  # noqa: F401 - so that the first request does not wait for it


SCORER = Scorer(
    name="soft_f1",
    version="1",
    tasks=frozenset({"grounding"}),
    range=(0.0, 1.0),
    direction="higher",
    needs=("reference.boxes", "box_format"),
    params=SoftF1Params,
    score=score,
    load=_load,
    summary="2t / (t + false positives + references), t = IoU sum of the optimal pairs",
)
