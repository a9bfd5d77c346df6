"""radcliq_v1: an estimate of how wrong radiologists would find a report (Yu et al. 2023).

Role: the paper's report reward, with a weight below 0; its parts are RadGraph, BERTScore and CheXbert.
Input: answer and reference report. Output: RadCliQ-v1, lower is better: -1.44 for equal reports, 2.45 for unlike ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from rewards.clinical.radcliq_parts import HIGHEST, LOWEST, load_parts, score_parts
from rewards.radcliq import radcliq_v1
from rewards.scorer import NoParams, Results, ScoreItem, Scorer


def score(items: Sequence[ScoreItem], _: NoParams) -> Results:
    """One score an item; its details are the four parts."""
    return score_parts("radcliq_v1", items, radcliq_v1)


SCORER = Scorer(
    name="radcliq_v1",
    version="1",
    tasks=frozenset({"report"}),
    # BLEU weighs 4e-12 in it: too little to be put at the other end.
    range=(radcliq_v1(HIGHEST), radcliq_v1(LOWEST)),
    direction="lower",
    needs=("reference.report",),
    params=NoParams,
    score=score,
    tier="clinical",
    load=load_parts,
    remedy="install the extra: pip install 'overread[rewards,clinical]'",
    summary="RadCliQ-v1 of RadGraph, BERTScore and CheXbert similarity; lower is better",
)
