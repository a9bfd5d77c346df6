"""negation_consistency: does a report deny what its reference affirms, or affirm what it denies?

Role: a guard against the error that word overlap hardly sees ("effusion" for "no effusion"); labels as in chexpert_f1.
Input: answer and reference report. Output: of the observations that both affirm or deny, the share on which they agree.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rewards.chexpert_labels import Label, label_report
from rewards.references import REFERENCES
from rewards.scorer import NoParams, Results, ScoreItem, Scorer
from schemas.group import Score

# "No Finding" follows from the other labels and is never denied: it could only raise the share.
_DERIVED = "No Finding"


def compare(predicted: Mapping[str, Label], reference: Mapping[str, Label]) -> tuple[int, int, int]:
    """Observations that both sides name: (those that both affirm or deny, contradicted ones among them, doubted ones).

    Doubt on either side contradicts nothing and agrees with nothing, so a doubted observation is left out.
    """
    named = (predicted.keys() & reference.keys()) - {_DERIVED}
    doubted = {name for name in named if Label.UNCERTAIN in (predicted[name], reference[name])}
    shared = named - doubted
    return len(shared), sum(predicted[name] is not reference[name] for name in shared), len(doubted)


def score(items: Sequence[ScoreItem], _: NoParams) -> Results:
    """One score an item."""
    results: Results = []
    for item in items:
        reference = REFERENCES.get("chexpert_labels", item.reference.report or "", label_report)
        shared, contradicted, doubted = compare(label_report(item.answer), reference)
        # Nothing shared is 0, not 1: a report that avoids or doubts every statement must not pass for a consistent one.
        value = 1.0 - contradicted / shared if shared else 0.0
        details = {"shared": shared, "contradicted": contradicted, "doubted": doubted}
        results.append(Score(value=value, details=details))
    return results


SCORER = Scorer(
    name="negation_consistency",
    version="2",  # 2: "no longer", "unlikely"
    tasks=frozenset({"report"}),
    range=(0.0, 1.0),
    direction="higher",
    needs=("reference.report",),
    params=NoParams,
    score=score,
    summary="share of the observations named on both sides that are not affirmed by one and denied by the other",
)
