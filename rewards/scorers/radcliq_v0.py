"""radcliq_v0: an estimate of how wrong radiologists would find a report (Yu et al. 2023).

Role: for comparison with older publications. More BLEU makes it worse: a policy would learn to avoid the wording.
Input: answer and reference report. Output: RadCliQ-v0, lower is better: -0.24 for equal reports, 5.52 for unlike ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from rewards.clinical.radcliq_parts import HIGHEST, LOWEST, load_parts, score_parts
from rewards.radcliq import radcliq_v0
from rewards.scorer import NoParams, Results, ScoreItem, Scorer


def score(items: Sequence[ScoreItem], _: NoParams) -> Results:
    """One score an item; its details are the four parts."""
    return score_parts("radcliq_v0", items, radcliq_v0)


SCORER = Scorer(
    name="radcliq_v0",
    version="1",
    tasks=frozenset({"report"}),
    # Its BLEU has the wrong sign.
    range=(radcliq_v0(HIGHEST._replace(bleu=0.0)), radcliq_v0(LOWEST._replace(bleu=1.0))),
    direction="lower",
    needs=("reference.report",),
    params=NoParams,
    score=score,
    tier="clinical",
    load=load_parts,
    remedy="install the extra: pip install 'overread[rewards,clinical]'",
    evaluation_only=True,
    summary="RadCliQ-v0 of RadGraph, BERTScore, CheXbert similarity and BLEU-2; lower is better",
)
