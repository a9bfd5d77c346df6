"""chexbert_similarity: how near do a report and its reference lie in CheXbert's eyes?

Role: a smooth counterpart of chexbert_f1, and one of RadCliQ's parts.
Input: answer and reference report. Output: cosine of their embeddings, -1 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence

from rewards.clinical.chexbert import Finding, find, load_chexbert, reference_findings, similarity
from rewards.scorer import NoParams, Results, ScoreItem, Scorer
from schemas.group import Score, ScoreError


def _score(predicted: Finding, reference: Finding) -> Score | ScoreError:
    if reference.blank:
        message = "chexbert_similarity needs a reference report that is not blank"
        return ScoreError(code="missing_input", message=message)
    details = {"truncated": predicted.truncated, "reference_truncated": reference.truncated}
    return Score(value=similarity(predicted, reference), details=details)


def score(items: Sequence[ScoreItem], _: NoParams) -> Results:
    """One score an item."""
    references = reference_findings([item.reference.report or "" for item in items])
    return list(map(_score, find([item.answer for item in items]), references))


SCORER = Scorer(
    name="chexbert_similarity",
    version="1",
    tasks=frozenset({"report"}),
    range=(-1.0, 1.0),
    direction="higher",
    needs=("reference.report",),
    params=NoParams,
    score=score,
    tier="clinical",
    load=load_chexbert,
    remedy="install the extra: pip install 'overread[rewards,clinical]'",
    summary="cosine of the CheXbert embeddings of the two reports",
)
