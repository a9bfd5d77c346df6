"""chexbert_f1: do a report and its reference name the same findings, to CheXbert's reading?

Role: clinical agreement on the 14 CheXpert observations; chexpert_f1 is its counterpart without weights.
Input: answer and reference report. Output: F1 over the positive observations, 0-1.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rewards.chexpert_labels import bit_mask
from rewards.clinical.chexbert import Finding, find, load_chexbert, reference_findings
from rewards.scorer import NoParams, Results, ScoreItem, Scorer
from rewards.scorers.chexpert_f1 import f1
from schemas.group import Score, ScoreError

# f1chexbert's second figure: the five observations of CheXpert's competition.
FIVE = frozenset({"Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion"})

_WORD = re.compile(r"[^\W\d_]{2}")


def _score(predicted: Finding, reference: Finding) -> Score | ScoreError:
    if reference.blank:
        return ScoreError(code="missing_input", message="chexbert_f1 needs a reference report that is not blank")
    ours, theirs = predicted.positives, reference.positives
    hits = len(ours & theirs)
    # A blank answer is no report without findings.
    value, five = (0.0, 0.0) if predicted.blank else (f1(ours, theirs), f1(ours & FIVE, theirs & FIVE))
    return Score(
        value=value,
        details={
            "true_positives": hits,
            "false_positives": len(ours) - hits,
            "false_negatives": len(theirs) - hits,
            "predicted_mask": bit_mask(ours),
            "reference_mask": bit_mask(theirs),
            "f1_of_five": five,
            "truncated": predicted.truncated,
            "reference_truncated": reference.truncated,
        },
    )


def score(items: Sequence[ScoreItem], _: NoParams) -> Results:
    """One score an item; the masks are what corpus-level F1 is computed from (rewards/corpus.py)."""
    references = reference_findings([item.reference.report or "" for item in items])
    predicted = [
        # CheXbert has labels for a lone full stop too.
        finding if _WORD.search(item.answer) else finding._replace(blank=True)
        for item, finding in zip(items, find([item.answer for item in items]), strict=True)
    ]
    return list(map(_score, predicted, references))


SCORER = Scorer(
    name="chexbert_f1",
    version="2",  # 2: an answer without a word counts as blank
    tasks=frozenset({"report"}),
    range=(0.0, 1.0),
    direction="higher",
    needs=("reference.report",),
    params=NoParams,
    score=score,
    tier="clinical",
    load=load_chexbert,
    remedy="install the extra: pip install 'overread[rewards,clinical]'",
    summary="F1 over the positive CheXpert observations, labelled by CheXbert; uncertain counts as positive",
)
