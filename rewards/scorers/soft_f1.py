"""soft_f1: how well an answer's boxes cover the reference boxes.

Role: the grounding reward of the paper (arXiv 2512.10691), as its code computes it.
Input: an answer with boxes, reference boxes. Output: 2t / (t + FP + n_reference), t = IoU sum of the optimal pairs.

A false positive costs as much as a missed reference box, so flooding does not pay. A pair's missing overlap costs only
in t, so one box per reference box always pays, however loose.

Neither side with a box: ``empty_match_value`` if the answer says that there is none, 0 if it only says nothing.
"""

from __future__ import annotations

from functools import partial

from rewards.box_matching import Match
from rewards.grounding import GroundingParams, load_matching, scores
from rewards.scorer import Scorer


def soft_f1(match: Match) -> float:
    """P = t/(t+FP), R = t/n_reference, F1 = 2PR/(P+R) = 2t/(t + FP + n_reference); 0-1; one side has a box."""
    return 2.0 * match.iou_sum / (match.iou_sum + match.false_positives + match.reference)


SCORER = Scorer(
    name="soft_f1",
    version="2",
    tasks=frozenset({"grounding"}),
    range=(0.0, 1.0),
    direction="higher",
    needs=("reference.boxes", "box_format"),
    params=GroundingParams,
    score=partial(scores, formula=soft_f1),
    load=load_matching,
    summary="2t / (t + false positives + references), t = IoU sum of the optimal pairs",
)
