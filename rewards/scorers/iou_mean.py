"""iou_mean: how much of each reference box does an answer find?

Role: an evaluation figure that reads like "the mean overlap is 0.6". Never a training reward: false positives do not
change it, and among many boxes each reference finds a better partner, so flooding raises it.
Input: an answer with boxes, reference boxes. Output: mean over the reference boxes of the IoU of their pairs (0 without
a pair), 0-1.

Where the reference has no box but the answer has, it is 0: there alone a false positive is seen.
Neither side with a box: ``empty_match_value`` if the answer says that there is none, 0 if it only says nothing.
"""

from __future__ import annotations

from functools import partial

from rewards.box_matching import Match
from rewards.grounding import GroundingParams, load_matching, scores
from rewards.scorer import Scorer


def iou_mean(match: Match) -> float:
    """t / n_reference, 0-1; 0 without a reference box."""
    return match.iou_sum / match.reference if match.reference else 0.0


SCORER = Scorer(
    name="iou_mean",
    version="1",
    tasks=frozenset({"grounding"}),
    range=(0.0, 1.0),
    direction="higher",
    needs=("reference.boxes", "box_format"),
    params=GroundingParams,
    score=partial(scores, formula=iou_mean),
    load=load_matching,
    evaluation_only=True,
    summary="mean over reference boxes of the matched IoU; blind to false positives",
)
