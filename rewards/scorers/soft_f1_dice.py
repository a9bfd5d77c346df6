"""soft_f1_dice: how well an answer's boxes cover the reference boxes, by the paper's figure.

Role: soft_f1's sibling; the paper's (arXiv 2512.10691) figure and code differ, and this is the figure.
Input: an answer with boxes, reference boxes. Output: 2t / (n_predicted + n_reference), t = IoU sum of the best pairs.

Equal to soft_f1 where every pair overlaps fully, else lower: what a pair lacks in overlap counts on both sides. Each
box beyond the references lowers it, so flooding does not pay; a loose first box pays less than with soft_f1.

Neither side with a box: ``empty_match_value`` if the answer says that there is none, 0 if it only says nothing.
"""

from __future__ import annotations

from functools import partial

from rewards.box_matching import Match
from rewards.grounding import GroundingParams, load_matching, scores
from rewards.scorer import Scorer


def soft_f1_dice(match: Match) -> float:
    """2t / (n_predicted + n_reference), 0-1; one side has a box."""
    return 2.0 * match.iou_sum / (match.predicted + match.reference)


SCORER = Scorer(
    name="soft_f1_dice",
    version="1",
    tasks=frozenset({"grounding"}),
    range=(0.0, 1.0),
    direction="higher",
    needs=("reference.boxes", "box_format"),
    params=GroundingParams,
    score=partial(scores, formula=soft_f1_dice),
    load=load_matching,
    summary="2t / (predicted + references), t = IoU sum of the optimal pairs",
)
