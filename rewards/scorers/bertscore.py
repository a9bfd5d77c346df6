"""bertscore: do a report and its reference say alike things, word by word in context?

Role: a fluent-text score of bert-score's kind: distilroberta-base, layer 5, rescaled, idf off, case kept.
Input: answer and reference report. Output: rescaled F1, at most 1; 0 is what chance gives.
"""

from __future__ import annotations

from collections.abc import Sequence

from rewards.clinical.bertscore import LOWEST_F1, Embedded, agreement, embed, load_bertscore, reference_embeddings
from rewards.scorer import NoParams, Results, ScoreItem, Scorer
from schemas.group import Score, ScoreError


def _score(prediction: Embedded, reference: Embedded) -> Score | ScoreError:
    if reference.blank:
        return ScoreError(code="missing_input", message="bertscore needs a reference report that is not blank")
    precision, recall, f1 = agreement(prediction, reference)
    return Score(
        value=f1,
        details={
            "precision": precision,
            "recall": recall,
            "truncated": prediction.truncated,
            "reference_truncated": reference.truncated,
        },
    )


def score(items: Sequence[ScoreItem], _: NoParams) -> Results:
    """One score an item."""
    references = reference_embeddings([item.reference.report or "" for item in items])
    return list(map(_score, embed([item.answer for item in items]), references))


SCORER = Scorer(
    name="bertscore",
    version="1",
    tasks=frozenset({"report"}),
    range=(LOWEST_F1, 1.0),
    direction="higher",
    needs=("reference.report",),
    params=NoParams,
    score=score,
    tier="clinical",
    load=load_bertscore,
    remedy="install the extra: pip install 'overread[rewards,clinical]'",
    summary="BERTScore F1 (distilroberta-base, layer 5), rescaled with its baseline, without idf",
)
