"""chexpert_f1: do a report and its reference name the same findings?

Role: the clinical report score that needs no weights; labels come from rewards/chexpert_labels.py.
Input: answer and reference report. Output: F1 over the positive ones of the 14 CheXpert observations, 0-1.
"""

from __future__ import annotations

from collections.abc import Sequence, Set

from rewards.chexpert_labels import bit_mask, label_report, positives
from rewards.references import REFERENCES
from rewards.scorer import NoParams, ScoreItem, Scorer
from schemas.group import Score, ScoreError


def f1(predicted: Set[str], reference: Set[str]) -> float:
    """2tp / (2tp + fp + fn); 1 if neither side has a positive, 0 if only one has."""
    if not predicted and not reference:
        return 1.0
    return 2.0 * len(predicted & reference) / (len(predicted) + len(reference))


def score(items: Sequence[ScoreItem], _: NoParams) -> list[Score | ScoreError]:
    """One score an item; its details are what corpus-level F1 is computed from (rewards/corpus.py)."""
    results: list[Score | ScoreError] = []
    for item in items:
        labels = label_report(item.answer)
        predicted = positives(labels)
        reference = positives(REFERENCES.get("chexpert_labels", item.reference.report or "", label_report))
        hits = len(predicted & reference)
        details = {
            "true_positives": hits,
            "false_positives": len(predicted) - hits,
            "false_negatives": len(reference) - hits,
            "predicted_mask": bit_mask(predicted),
            "reference_mask": bit_mask(reference),
        }
        # An answer that mentions nothing ("", "Sorry.") is no report without findings.
        results.append(Score(value=f1(predicted, reference) if labels else 0.0, details=details))
    return results


SCORER = Scorer(
    name="chexpert_f1",
    version="2",  # 2: an answer without any label gets nothing; "no longer", "unlikely"
    tasks=frozenset({"report"}),
    range=(0.0, 1.0),
    direction="higher",
    needs=("reference.report",),
    params=NoParams,
    score=score,
    summary="F1 over the positive CheXpert observations, labelled by rules",
)
