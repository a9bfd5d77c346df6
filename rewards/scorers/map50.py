"""map50: average precision of one answer's boxes at IoU 0.5; its mean over samples is the paper's mAP@0.5.

Role: the evaluation figure of the paper's grounding tables. Never a training reward: boxes after the last hit are free,
so flooding pays.
Input: an answer with boxes, reference boxes. Output: AP at 0.5, 0-1; ``ap_50_95``, its mean over 0.5, 0.55, ..., 0.95,
in the details.

A generated answer has no confidences, so every box has confidence 1 and the boxes are ranked as the answer names them
(what a stable sort does in COCO's evaluation too). Then, as in the paper's evaluation code: a box is a hit where the
reference box that it overlaps most has IoU >= threshold and is not hit yet (PASCAL VOC's rule; COCO's would try the
next best); AP is the whole area under precision over recall, precision made monotone (VOC since 2010). Invalid boxes,
duplicates and boxes over ``max_boxes`` come last, where they cost nothing: the paper does not see invalid ones at all.
One side empty: 0. Both empty: ``empty_match_value`` (the paper: 0) if the answer says that there is none, 0 if it only
says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from rewards.box_matching import iou_rows
from rewards.grounding import GroundingParams, read_grounding
from rewards.scorer import ScoreItem, Scorer
from schemas.group import Score, ScoreError

_THRESHOLDS = tuple(step / 20 for step in range(10, 20))  # 0.5, 0.55, ..., 0.95


def best_references(ious: Sequence[Sequence[float]]) -> list[tuple[int, float]]:
    """The reference box that each predicted box overlaps most, the first of equals, and their IoU."""
    bests = [(max(row), row) for row in ious if row]
    return [(row.index(best), best) for best, row in bests]


def average_precision(bests: Sequence[tuple[int, float]], reference: int, threshold: float) -> float:
    """Area under the monotone precision-recall curve of ranked boxes, 0-1."""
    hit: set[int] = set()
    precisions: list[float] = []  # at each hit: recall rises there by 1 / reference
    for rank, (column, best) in enumerate(bests, start=1):
        if best >= threshold and column not in hit:
            hit.add(column)
            precisions.append(len(hit) / rank)
    area = highest = 0.0
    for precision in reversed(precisions):
        highest = max(highest, precision)
        area += highest
    return area / reference if reference else 0.0


def _score(item: ScoreItem, params: GroundingParams) -> Score:
    sides, counts, value = read_grounding(item, params)
    bests = best_references(iou_rows(sides))
    precisions = [average_precision(bests, len(sides.reference), threshold) for threshold in _THRESHOLDS]
    if value is None:
        return Score(value=precisions[0], details={"ap_50_95": sum(precisions) / len(precisions), **counts})
    return Score(value=value, details={"ap_50_95": value, **counts})


def score(items: Sequence[ScoreItem], params: GroundingParams) -> list[Score | ScoreError]:
    """One score an item."""
    return [_score(item, params) for item in items]


SCORER = Scorer(
    name="map50",
    version="1",
    tasks=frozenset({"grounding"}),
    range=(0.0, 1.0),
    direction="higher",
    needs=("reference.boxes", "box_format"),
    params=GroundingParams,
    score=score,
    evaluation_only=True,
    summary="average precision at IoU 0.5, boxes ranked in the order of the answer",
)
